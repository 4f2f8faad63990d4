/** Raw RGB frames pulled one by one: `data` is height × width × 3 bytes, rows from the top. */
export interface VideoFrame {
  /** 0 for the first frame of the stream. */
  index: number
  /** Presentation time in seconds from the first frame of the file. */
  time: number
  width: number
  height: number
  data: Uint8Array
}
