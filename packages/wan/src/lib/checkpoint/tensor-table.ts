/** The tensors a network is made of, by name, each with the shape the checkpoint stores. */
export type TensorTable = ReadonlyMap<string, readonly number[]>
