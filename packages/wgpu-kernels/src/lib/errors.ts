import { defineErrors } from '@kinora/stage'

/** Bytes as a person reads them. */
function mib(bytes: number): string {
  return bytes < 2 ** 20 ? `${bytes} bytes` : `${(bytes / 2 ** 20).toFixed(1)} MiB`
}

/** Everything this package refuses or reports, by code. */
export const wgpuErrors = defineErrors('WGPU', {
  NO_DAWN: {
    message: (detail: string) => `The webgpu package (Dawn) could not be loaded: ${detail}`,
    fix: 'Install the dependencies again on this platform, or use the cpu-kernels backend.',
  },
  NO_ADAPTER: {
    message: (detail: string) => `No WebGPU adapter was found${detail}.`,
    fix: 'Install a GPU driver with Vulkan, Metal or D3D12, or a software Vulkan driver (lavapipe 24 or newer) and point VK_DRIVER_FILES at its manifest; or use the cpu-kernels backend.',
  },
  ADAPTER_NOT_FOUND: {
    message: (name: string, detail: string) => `No adapter has "${name}" in its name. ${detail}`,
    fix: 'Choose a part of one of the names listed, or leave the adapter out.',
  },
  DEVICE_REFUSED: {
    message: (adapter: string, detail: string) => `${adapter} gave no device: ${detail}`,
    fix: 'Update the driver, or choose another adapter.',
  },
  OUT_OF_MEMORY: {
    message: (asked: number, live: number, pooled: number) =>
      `The device has no room for a buffer of ${mib(asked)}; ${mib(live)} are in use and ${mib(pooled)} are kept for reuse.`,
    fix: 'Lower the resolution, the frame count or the batch size, keep fewer weights on the device, or choose a packed weight format.',
  },
  HOST_OUT_OF_MEMORY: {
    message: (asked: number, parked: number) =>
      `The host has no room to park a tensor of ${mib(asked)}; ${mib(parked)} are parked.`,
    fix: 'Park less (offload fewer layers, or one expert), choose a packed weight format, or free host memory.',
  },
  BUFFER_TOO_LARGE: {
    message: (asked: number, limit: number) =>
      `A tensor of ${mib(asked)} was asked for; this adapter's largest buffer is ${mib(limit)}.`,
    fix: 'Work in parts along a leading axis (chunks of frames or tokens).',
  },
  BINDING_TOO_LARGE: {
    message: (kernel: string, binding: string, bytes: number, limit: number) =>
      `Kernel ${kernel} needs ${mib(bytes)} of ${binding} at once; this adapter binds at most ${mib(limit)}.`,
    fix: 'Work in parts along a leading axis (chunks of frames or tokens), or choose an adapter with larger bindings.',
  },
  DISPATCH_TOO_LARGE: {
    message: (kernel: string, groups: number) =>
      `Kernel ${kernel} needs ${groups} workgroups, more than this adapter starts in one dispatch.`,
    fix: 'Work in parts along a leading axis (chunks of frames or tokens).',
  },
  DEVICE_LOST: {
    message: (reason: string, detail: string) =>
      `The device was lost (${reason || 'unknown reason'}): ${detail || 'the driver gave no message'}`,
    fix: 'Open the device again and resume from the last checkpoint. If it happens at the same step, lower the size of the work or update the driver.',
  },
  VALIDATION: {
    message: (where: string, detail: string) => `WebGPU refused ${where}: ${detail}`,
    fix: 'This is a bug in a kernel or a use of freed memory. Run again with KINORA_ROBUST=1, which names the exact dispatch, and report it.',
  },
  BAD_KERNEL: {
    message: (kernel: string, detail: string) => `Kernel ${kernel} did not compile: ${detail}`,
    fix: 'This is a bug in the kernel or the driver. Report the adapter, the driver and this message.',
  },
  BAD_SHAPE: {
    message: (op: string, detail: string) => `${op}: ${detail}`,
    fix: 'Pass tensors of the shapes the op documents.',
  },
  BAD_DTYPE: {
    message: (op: string, detail: string) => `${op}: ${detail}`,
    fix: 'Cast the tensor, or pass the dtype the op documents.',
  },
  TENSOR_FREED: {
    message: (op: string, shape: string) =>
      `${op} was given a tensor ${shape} that was already freed.`,
    fix: 'Return the tensor from its scope, or retain it while it is needed.',
  },
  FOREIGN_TENSOR: {
    message: (op: string) => `${op} was given a tensor of another device.`,
    fix: 'Read it there and upload it here; tensors do not move between devices.',
  },
  ASYNC_SCOPE: {
    message: () => 'The function of a scope returned a promise.',
    fix: 'Queue the work inside the scope and await read or sync outside it.',
  },
  DESTROYED: {
    message: () => 'The device was destroyed.',
    fix: 'Open a new device.',
  },
})
