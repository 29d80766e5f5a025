package image

// A Reader gives access to the tensors of an image by name.
type Reader struct {
	head    Head
	data    []byte
	tensors []Tensor
	byName  map[string]int
}

// Open checks a whole image, head and data. The reader and what it hands out are views of its bytes.
func Open(image []byte) (*Reader, error) {
	head, err := Check(image, int64(len(image)))
	if err != nil {
		return nil, err
	}
	tensors, err := DecodeIndex(head)
	if err != nil {
		return nil, err
	}
	r := &Reader{head, image[head.HeadSize:head.ImageSize], tensors, make(map[string]int, len(tensors))}
	for i := len(tensors) - 1; i >= 0; i-- { // backwards, so that the first of a name counts
		r.byName[tensors[i].Name] = i
	}
	return r, nil
}

// Head returns the head of the image.
func (r *Reader) Head() Head { return r.head }

// Tensors returns the entries of the index, in the order of the model.
func (r *Reader) Tensors() []Tensor { return r.tensors }

// Tensor returns the entry of that name, the first if there are several, and the bytes from the tensor's first
// element to the end of its last one. Elements lie there as shape and stride say, so there can be bytes between
// them that are not its own.
func (r *Reader) Tensor(name string) (tensor Tensor, bytes []byte, ok bool) {
	i, ok := r.byName[name]
	if !ok {
		return Tensor{}, nil, false
	}
	tensor = r.tensors[i]
	if tensor.Length == 0 {
		return tensor, nil, true
	}
	start := r.head.Segments[tensor.Segment].Offset + tensor.Offset
	end := start + tensor.Length
	return tensor, r.data[start:end:end], true
}
