/** The two forms ComfyUI keeps workflows in: the editor's, with places and links, and the endpoint's, with inputs alone. */
export const workflowFormats = ['ui', 'api'] as const
