"""Are the published weights what they should be? `python scripts/real_weights.py [--vae PLACE] [--clip PLACE]
[--dinov2 PLACE] [--inception FILE] [--out FILE]`, a PLACE being a folder, or owner/name on the hub.

Opens the VAE, CLIP, DINOv2 and Inception as this package does, one after the other, gives each one input, and compares
what is known of it: each known number stands below with its source. What is missing or broken is said, and the next is
opened. Exit code 1 if a number differs."""
import argparse, hashlib, json, sys
from pathlib import Path
from typing import NamedTuple
import torch
from pafm_nb.captions import load_clip, load_text_encoder
from pafm_nb.extractors import DINOV2, inception_weights
from pafm_nb.files import write_json
from pafm_nb.vae import decode, encode, load_vae, vae_folder, vae_provenance, weights_file

class Known(NamedTuple):
    "A number, and where it is from"
    value:object
    source:str

HUB = "the hub's page of the file, under its name the SHA-256"
COUNTED = 'counted on the architecture that its published config.json describes'
KNOWN = dict(
    vae=dict(parameters=Known(83_653_863, COUNTED), latent=Known([4, 32, 32], 'arXiv 2112.10752: f = 8, 4 channels'),
             scale=Known(.18215, 'config.json: scaling_factor'),
             sha256=Known('a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815',
                          f'{HUB}: stabilityai/sd-vae-ft-mse, diffusion_pytorch_model.safetensors')),
    clip=dict(parameters=Known(427_616_513, COUNTED), states=Known([77, 768], 'arXiv 2103.00020: ViT-L/14'),
              cat=Known([49406, 320, 1125, 539, 320, 2368, 49407], "CLIP's tokenizer on 'a photo of a cat'"),
              sha256=Known('a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb',
                           f'{HUB}: openai/clip-vit-large-patch14, model.safetensors')),
    dinov2=dict(parameters=Known(304_368_640, COUNTED), features=Known([1024], 'arXiv 2304.07193: ViT-L/14')),
    inception=dict(classes=Known([1008, 2048], "TensorFlow's inception-2015-12-05, as FID uses it"),
                   features=Known([2048], 'arXiv 1706.08500: the pooling layer'),
                   sha256=Known('6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2',
                                "its first 8 digits are in the file's name; torch-fidelity, release v0.2.0")))

def picture():
    "A smooth image, (1, 3, 256, 256) uint8"
    ramp = torch.linspace(0, 255, 256)
    across, grey = ramp.expand(256, 256), torch.full((256, 256), 128.)
    return torch.stack([across, across.T, grey])[None].byte()

def checksum(file):
    digest = hashlib.sha256()
    with open(file, 'rb') as f:
        while chunk := f.read(2**22): digest.update(chunk)
    return digest.hexdigest()

def parameters(net): return sum(p.numel() for p in net.parameters())

def open_vae(place):
    vae = load_vae(place)
    about = vae_provenance(vae, place)
    mean, _ = encode(vae, picture())
    off = (decode(vae, mean, about).int() - picture().int()).abs().float().mean().item()
    return dict(parameters=parameters(vae), latent=list(mean.shape[1:]), scale=about['scale'],
                sha256=checksum(weights_file(vae_folder(place))),
                said=f'a smooth image comes back {off:.1f} levels off')

def open_clip(place):
    model, folder, sha256 = load_clip(place)
    count, encoder = parameters(model), load_text_encoder(folder)
    tokens = encoder.tokens(['a photo of a cat'])
    states = list(encoder.states(tokens).shape[1:])
    return dict(parameters=count, states=states, cat=tokens[0, :7].tolist(), sha256=sha256)

def open_dinov2(place):
    from pafm_nb.extractors import DINOv2Features
    net = DINOv2Features('dinov2', ['features'], feature_extractor_weights_path=place).eval()
    with torch.no_grad(): features, = net(picture())
    return dict(parameters=parameters(net.net), features=list(features.shape[1:]))

def open_inception(place):
    from pafm_nb.extractors import InceptionFeatures
    file = inception_weights(place or None)
    net = InceptionFeatures('inception-v3-compat', ['2048', 'spatial'], feature_extractor_weights_path=file).eval()
    with torch.no_grad(): features, _ = net(picture())
    return dict(classes=list(net.fc.weight.shape), features=list(features.shape[1:]), sha256=checksum(file))

OPEN = dict(vae=open_vae, clip=open_clip, dinov2=open_dinov2, inception=open_inception)

def compared(name, place):
    "What was found, and of each known number whether it is that; or why the weights could not be opened"
    try: found = OPEN[name](place)
    except (ValueError, OSError) as e: return dict(place=str(place), missing=str(e).splitlines()[0])
    differs = {key: dict(found=found[key], known=known.value, source=known.source)
               for key, known in KNOWN[name].items() if found[key] != known.value}
    return dict(place=str(place), found=found, differs=differs)

def shown(name, result):
    "A few lines for one network"
    if 'missing' in result: return f'{name}: not opened: {result["missing"]}'
    found, differs = result['found'], result['differs']
    lines = [f'{name}: {result["place"]}' + (f', {found["said"]}' if 'said' in found else '')]
    for key in KNOWN[name]:
        value = f'{found[key]:,}' if type(found[key]) is int else found[key]
        lines.append(f'  {key} {value}: ' + (f'DIFFERS from {differs[key]["known"]} ({differs[key]["source"]})'
                                             if key in differs else 'as published'))
    return '\n'.join(lines)

def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--vae', default='stabilityai/sd-vae-ft-mse')
    parser.add_argument('--clip', default='openai/clip-vit-large-patch14')
    parser.add_argument('--dinov2', default=DINOV2)
    parser.add_argument('--inception', default='',
                        help="a file; by default the one in torch hub's cache, fetched if need be")
    parser.add_argument('--out', help='also write what was found to this JSON file')
    args, results = parser.parse_args(argv), {}
    for name in OPEN:
        results[name] = compared(name, getattr(args, name))
        print(shown(name, results[name]), flush=True)
    if args.out: write_json(args.out, results)
    return int(any(result.get('differs') for result in results.values()))

if __name__ == '__main__': sys.exit(main())
