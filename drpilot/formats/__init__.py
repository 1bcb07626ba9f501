"""Pure codecs of the formats others wrote: bundles and their manifests, import manifests, block maps, euca2ools ini."""
