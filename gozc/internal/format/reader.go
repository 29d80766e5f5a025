package format

// A Reader gives access to the tensors of an image by name.
type Reader struct {
	head    Head
	data    []byte
	bases   [][]byte // their data
	heads   []Head   // of the bases
	tensors []Tensor
	byName  map[string]int
}

// Open checks a whole image, head and data, and the images that it shares blocks with, in the order of its head. The
// reader and what it hands out are views of their bytes.
func Open(image []byte, bases ...[]byte) (*Reader, error) {
	head, err := Check(image, int64(len(image)))
	if err != nil {
		return nil, err
	}
	heads, err := Attach(head, bases)
	if err != nil {
		return nil, err
	}
	tensors, err := DecodeIndex(head, heads)
	if err != nil {
		return nil, err
	}
	r := &Reader{
		head: head, data: image[head.HeadSize:head.ImageSize], heads: heads,
		tensors: tensors, byName: make(map[string]int, len(tensors)),
	}
	for i, base := range bases {
		r.bases = append(r.bases, base[heads[i].HeadSize:heads[i].ImageSize])
	}
	for i := len(tensors) - 1; i >= 0; i-- { // backwards, so that the first of a name counts
		r.byName[tensors[i].Name] = i
	}
	return r, nil
}

// Head returns the head of the image.
func (r *Reader) Head() Head { return r.head }

// Tensors returns the entries of the index, in the order of the model.
func (r *Reader) Tensors() []Tensor { return r.tensors }

// Tensor returns the entry of that name, the first if there are several, and its bytes, see Bytes.
func (r *Reader) Tensor(name string) (tensor Tensor, bytes []byte, ok bool) {
	i, ok := r.Row(name)
	if !ok {
		return Tensor{}, nil, false
	}
	return r.tensors[i], r.Bytes(i), true
}

// Row returns the row of the index that has the entry of that name, the first if there are several.
func (r *Reader) Row(name string) (row int, ok bool) {
	row, ok = r.byName[name]
	return row, ok
}

// Bytes returns the bytes from the first element of a tensor to the end of its last one. Elements lie there as shape and
// stride say, so there can be bytes between them that are not its own.
func (r *Reader) Bytes(row int) []byte {
	tensor := r.tensors[row]
	if tensor.Length == 0 {
		return nil
	}
	segments, data := r.head.Segments, r.data
	if tensor.Base >= 0 {
		segments, data = r.heads[tensor.Base].Segments, r.bases[tensor.Base]
	}
	start := segments[tensor.Segment].Offset + tensor.Offset
	end := start + tensor.Length
	return data[start:end:end]
}

// InBlock returns the rows of the index whose tensors begin in a block.
func (r *Reader) InBlock(block int) []int {
	base, offset := r.head.Blocks[block].Base()
	end := offset + r.head.Blocks[block].Length
	var rows []int
	for row, tensor := range r.tensors {
		if tensor.Length == 0 || tensor.Base != int64(base) {
			continue
		}
		segments := r.head.Segments
		if base >= 0 {
			segments = r.heads[base].Segments
		}
		if start := segments[tensor.Segment].Offset + tensor.Offset; offset <= start && start < end {
			rows = append(rows, row)
		}
	}
	return rows
}

// Heads returns the heads of the images that it shares blocks with.
func (r *Reader) Heads() []Head { return r.heads }
