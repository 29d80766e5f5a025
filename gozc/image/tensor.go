package image

import "github.com/ray-zerocopy/ray-zerocopy/gozc/internal/format"

// A Tensor is a named tensor of an image.
type Tensor struct {
	Name       string
	Dtype      string  // torch's name without the prefix: float32
	Shape      []int64 // none for a scalar
	Stride     []int64 // in elements, as long as Shape
	Persistent bool    // whether state_dict has it

	// Where it lies: tensors of the same three have the same first element.
	Base    int   // row in Image.Bases of the image that it lies in; -1: in its own
	Segment int   // of that image; -1 for a tensor without elements
	Offset  int64 // byte in the segment at which the first element lies

	image *Image
	row   int
}

// Bytes returns the bytes from the first element to the end of the last one, over the mapping; nil for a tensor without
// elements. It panics after Close.
func (t *Tensor) Bytes() []byte {
	if t.image.reader == nil {
		panic("image: the bytes of tensor " + t.Name + ", whose image was closed")
	}
	return t.image.reader.Bytes(t.row)
}

// Elements returns how many elements the tensor has.
func (t *Tensor) Elements() int64 {
	count := int64(1)
	for _, n := range t.Shape {
		if n == 0 {
			return 0
		}
		count *= n // less than 2^63 all together, which was checked
	}
	return count
}

// ElementSize returns the size of an element in bytes.
func (t *Tensor) ElementSize() int64 {
	size, _ := format.ElementSize(t.Dtype) // it is known, which was checked
	return size
}

// Contiguous tells whether the elements lie one after the other, in the order of the last dimension first.
func (t *Tensor) Contiguous() bool {
	step := int64(1)
	for i := len(t.Shape) - 1; i >= 0 && t.Elements() > 0; i-- {
		if t.Shape[i] != 1 && t.Stride[i] != step {
			return false
		}
		step *= t.Shape[i]
	}
	return true
}
