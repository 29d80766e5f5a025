// Package store finds the model images in Ray's object store on this machine, and opens them as the Python workers do: over
// the store's own pages, without a copy. It needs neither Ray nor Python, but a raylet that runs as the same user in the same
// PID namespace: the store's file has no name, and is found by the raylet's descriptors. Linux only.
//
//	found, err := store.Find("Encoder") // by class, or by the first digits of a fingerprint
//	if err != nil {
//		return err
//	}
//	encoder, err := found.Open()
//	if err != nil {
//		return err
//	}
//	defer encoder.Close()
//	weight, err := encoder.Tensor("layer.0.weight")
//
// # Caveats
//
// The store does not know of its reader. An image stays where it is as long as somebody in Ray holds it: a worker that has
// loaded it, or a name (lifetime="detached"). When nobody does, the store gives the memory to the next object, and what was
// read is something else. Image.Check tells whether that has happened: call it after reading, and take what was read for
// good only then.
//
// An image that is being put is found as soon as its head is there, before all of its weights are. Verify tells.
//
// Everything that package image says of mappings holds here, too. What Ray has moved to disk is not found, nor are objects
// that are no images, such as very small models, which Ray keeps elsewhere.
//
// How the store lays out its memory is Ray's own affair. It was tried with Ray 2.10, 2.40 and 2.60; where it is another one,
// the error is an ErrLayout, since the store's blocks would not add up.
package store
