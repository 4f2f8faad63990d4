import { defineErrors } from '@kinora/stage'

export const cpuKernelsErrors = defineErrors('CPU_KERNELS', {
  BAD_ARGUMENT: {
    message: (op: string, what: string) => `${op}: ${what}.`,
    fix: 'Compare the shapes and dtypes with the op’s comment in @kinora/kernel-api. This is a bug in the caller.',
  },
  FREED_TENSOR: {
    message: (op: string, tensor: string) =>
      `${op} was given tensor ${tensor}, which has been freed: its scope ended or it was released.`,
    fix: 'Return the tensor from its scope, or retain it for as long as it is used. This is a bug in the caller.',
  },
  FOREIGN_TENSOR: {
    message: (op: string) => `${op} was given a tensor of another device.`,
    fix: 'Use a tensor only with the device that made it; read it and upload it to move it.',
  },
  ASYNC_SCOPE: {
    message: () =>
      'A scope was given an asynchronous function: its tensors would be freed before they are used.',
    fix: 'Keep reads out of scopes, or retain what they need. This is a bug in the caller.',
  },
  DESTROYED: {
    message: (op: string) => `${op} was called after the device was destroyed.`,
    fix: 'Open a device for each piece of work, and destroy it last.',
  },
  OUT_OF_MEMORY: {
    message: (bytes: number, shape: string, liveBytes: number) =>
      `No memory for a tensor ${shape} of ${bytes} bytes, with ${liveBytes} bytes in use.`,
    fix: 'Use a smaller size, fewer frames or a smaller batch, or a machine with more memory.',
  },
})
