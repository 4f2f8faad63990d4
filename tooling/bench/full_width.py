#!/usr/bin/env python3
"""Reference for full-width.ts: one block of the A14B transformer at full width in torch, f32, from the paper's equations.

Weights, inputs and the LoRA come from the counter-based generator of full-width.ts, so nothing is exchanged but results.
Writes output, loss and LoRA gradients as raw f32 with a JSON header: full_width.py OUT.bin [--uint4]
"""
import json, math, struct, sys, time
import numpy as np
import torch
import torch.nn.functional as F

torch.backends.cuda.matmul.allow_tf32 = False
torch.backends.cudnn.allow_tf32 = False
OUT, UINT4 = sys.argv[1], '--uint4' in sys.argv
D, HEADS, FFN, TEXT_DIM, TEXT, RANK = 5120, 40, 13824, 4096, 512, 16
GRID = (4, 20, 20)          # latent frames, patch rows, patch columns: 1600 tokens
dev = 'cuda'


def r(name, *shape):
    """2 hash(k, name) / 2^32 - 1, see the table in full-width.ts."""
    s = 0x811C9DC5
    for b in name.encode(): s = ((s ^ b) * 0x01000193) & 0xFFFFFFFF
    n = math.prod(shape); m = 0xFFFFFFFF
    h = torch.arange(1, n + 1, dtype=torch.int64, device=dev) ^ ((s * 0x9E3779B1) & m)
    def mul(x, c): return (((x & 0xFFFF) * c) + ((((x >> 16) * c) & 0xFFFF) << 16)) & m
    h = mul(h, 0x85EBCA6B); h = h ^ (h >> 13); h = mul(h, 0xC2B2AE35); h = h ^ (h >> 16)
    return (h.double() * (2 / 2 ** 32) - 1).float().reshape(shape)


def weight(name, *shape):
    return r(name, *shape) * math.sqrt(3 / math.prod(shape[1:]))


def uint4(w):
    """torchao's groups of 64 along the input features, with torch's bf16 roundings (kernel-api's quantize)."""
    b = lambda t: t.bfloat16().float()
    g = b(w).reshape(w.shape[0], -1, 64)
    low, high = g.amin(-1, keepdim=True).clamp(max=0), g.amax(-1, keepdim=True).clamp(min=0)
    scale = b(b(high - low) / 15).clamp(min=2.0 ** -23).half().float()
    zero = (-b(low / scale).round()).clamp(0, 15)
    q = (b(g * b(1 / scale)).round() + zero).clamp(0, 15)
    return ((q - zero) * scale).reshape(w.shape)


params = {}


def linear(x, name, n_out, lora=False, quantised=False):
    w = weight(name + '.weight', n_out, x.shape[-1])
    if quantised and UINT4: w = uint4(w)
    y = F.linear(x, w, 0.1 * r(name + '.bias', n_out))
    if lora:
        if name not in params:
            a = (r(name + '.A', RANK, x.shape[-1]) * math.sqrt(3 / x.shape[-1])).requires_grad_()
            b = (0.3 * r(name + '.B', n_out, RANK)).requires_grad_()
            params[name] = (a, b)
        a, b = params[name]; y = y + F.linear(F.linear(x, a), b)
    return y


def rope_tables():
    f, h, w = GRID; hd = D // HEADS; t = hd - 4 * (hd // 6); s = 2 * (hd // 6)
    def ang(n, d): return torch.arange(n, dtype=torch.float64, device=dev)[:, None] * 10000.0 ** (-torch.arange(0, d, 2, dtype=torch.float64, device=dev) / d)
    a, b, c = ang(f, t), ang(h, s), ang(w, s)
    full = torch.cat([a[:, None, None].expand(f, h, w, -1), b[None, :, None].expand(f, h, w, -1), c[None, None].expand(f, h, w, -1)], -1).reshape(-1, hd // 2)
    return full.cos().float(), full.sin().float()


def rope(x, cos, sin):
    a, b = x[..., 0::2], x[..., 1::2]; cos, sin = cos[None, :, None], sin[None, :, None]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


def attention(y, context, name, freqs):
    q, k, v = (linear(x, f'{name}.{p}', D, True, True) for x, p in ((y, 'to_q'), (context, 'to_k'), (context, 'to_v')))
    q = F.rms_norm(q, (D,), 1 + 0.1 * r(name + '.norm_q.weight', D), 1e-6); k = F.rms_norm(k, (D,), 1 + 0.1 * r(name + '.norm_k.weight', D), 1e-6)
    q, k, v = (t.unflatten(-1, (HEADS, -1)) for t in (q, k, v))
    if freqs: q, k = rope(q, *freqs), rope(k, *freqs)
    o = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2).flatten(2)
    return linear(o, name + '.to_out.0', D, True, True)


def main():
    f, h, w = GRID; n = f * h * w
    latents = r('latents', 1, 36, f, 2 * h, 2 * w) * 1.7; text = r('text', 1, TEXT, TEXT_DIM); text[:, 40:] = 0
    x = latents.reshape(1, 36, f, h, 2, w, 2).permute(0, 2, 3, 5, 1, 4, 6).reshape(1, n, 144)
    x = F.linear(x, weight('patch_embedding.weight', D, 36, 1, 2, 2).reshape(D, 144), 0.1 * r('patch_embedding.bias', D))
    freq = 10000.0 ** (-torch.arange(128, dtype=torch.float64, device=dev) / 128) * 437.0
    e = torch.cat([freq.cos(), freq.sin()]).float()[None]
    c = 'condition_embedder.'
    e = linear(F.silu(linear(e, c + 'time_embedder.linear_1', D)), c + 'time_embedder.linear_2', D)
    e0 = linear(F.silu(e), c + 'time_proj', 6 * D).reshape(1, 6, D)
    context = linear(F.gelu(linear(text, c + 'text_embedder.linear_1', D), approximate='tanh'), c + 'text_embedder.linear_2', D)
    p = 'blocks.0'; m = e0 + 0.5 * r(p + '.scale_shift_table', 1, 6, D); s1, c1, g1, s2, c2, g2 = (m[:, i:i + 1] for i in range(6))
    ln = lambda t: F.layer_norm(t, (D,), eps=1e-6)
    y = ln(x) * (1 + c1) + s1
    x = x + g1 * attention(y, y, p + '.attn1', rope_tables())
    x = x + attention(ln(x) * (1 + 0.1 * r(p + '.norm2.weight', D)) + 0.1 * r(p + '.norm2.bias', D), context, p + '.attn2', None)
    y = ln(x) * (1 + c2) + s2
    x = x + g2 * linear(F.gelu(linear(y, p + '.ffn.net.0.proj', FFN, True, True), approximate='tanh'), p + '.ffn.net.2', D, True, True)
    hm = 0.5 * r('scale_shift_table', 1, 2, D) + e[:, None]
    out = linear(ln(x) * (1 + hm[:, 1:]) + hm[:, :1], 'proj_out', 64)
    out = out.reshape(1, f, h, w, 2, 2, 16).permute(0, 6, 1, 2, 4, 3, 5).reshape(1, 16, f, 2 * h, 2 * w)
    loss = ((out - r('target', *out.shape)) ** 2).mean(); loss.backward()
    parts = [('out', out.detach()), ('block', x.detach())] + [(f'{k}.{ab}', t.grad) for k, v in params.items() for ab, t in zip('AB', v)]
    head, blobs, at = {'loss': loss.item(), 'tensors': {}}, [], 0
    for name, t in parts:
        b = t.float().cpu().numpy().astype('<f4').tobytes(); head['tensors'][name] = {'shape': list(t.shape), 'at': at}; at += len(b); blobs.append(b)
    h = json.dumps(head).encode(); open(OUT, 'wb').write(struct.pack('<I', len(h)) + h + b''.join(blobs))
    print('torch', torch.cuda.get_device_name(), 'uint4' if UINT4 else 'dense', 'tokens', n, 'loss', loss.item())


main()
