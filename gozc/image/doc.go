// Package image reads model images: the files that ray_zerocopy writes in Python, and what it puts into Ray's object
// store. A Go program has the named tensors of a model over the very pages that the Python workers of the same machine
// use, without Python, and without a copy.
//
//	encoder, err := image.Open("encoder.rzc")
//	if err != nil {
//		return err
//	}
//	defer encoder.Close()
//	weight, err := encoder.Tensor("layer.0.weight")
//	if err != nil {
//		return err
//	}
//	rows, err := image.View[float32](weight) // over the mapping
//
// To open an image reads its head and nothing else, which takes well under a millisecond for most, however large the
// model is. Nothing of the model's code is read or run: what is not a named tensor (the classes, other attributes) is a
// pickle, for Python alone. docs/format.md of the repository describes the format to the byte.
//
// Bytes that do not check out give an error of a kind that errors.Is tells (ErrForeign, ErrDamaged and so on). No number
// in a file is used before it was checked, so a file that is not trusted can be opened. Verify compares all bytes with the
// checksums in the head, which opening does not.
//
// # Caveats
//
// Lifetime. What View and Tensor.Bytes return is the mapping itself. It is valid until Close, and Close must not be called
// while any of it is in use: to touch it afterwards ends the process with a fault. Nothing else unmaps: a slice of a
// mapping does not keep its Image alive for the garbage collector, so an Image that is forgotten stays mapped, and there is
// nothing for runtime.KeepAlive to do. It costs address space, and memory only as far as the system likes to keep it. A
// service opens its images at its start, and never closes them.
//
// Writes. The mapping can only be read: to write into it ends the process. A tensor that is to change has to be copied
// first (slices.Clone).
//
// Files that change. ray_zerocopy replaces files, and never writes into one: who has the old one open keeps it. But if
// another program cuts a file short under a mapping, to touch what is gone is a SIGBUS, which ends the process
// (debug.SetPanicOnFault makes a panic of it, in one goroutine), and if one writes into it, the new bytes appear in the
// mapping. The same holds for a disk that cannot be read.
//
// Elements. Bytes are little-endian, as on every machine that this package was tried on (amd64, arm64). Shape and stride
// count elements. Of a tensor that is not contiguous (a transposed one, say), Bytes and View go from the first element to
// the end of the last, with whatever lies between; Contiguous tells. Tensors may share memory: tied weights are two names
// for the same bytes.
//
// Concurrency. Everything but Close may be called by several goroutines at a time.
package image
