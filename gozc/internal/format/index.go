package format

import (
	"fmt"
	"math"
)

// A Tensor is an entry of the index.
type Tensor struct {
	Name       string
	Dtype      string // torch's name without the prefix: float32
	Shape      []int64
	Stride     []int64 // in elements
	Segment    int64   // -1 for a tensor over an empty storage
	Offset     int64   // byte of the segment at which the first element lies
	Base       int64   // the base whose segment it is; -1 for the image's own
	Persistent bool    // whether state_dict has it

	// Length in bytes from the first element to the end of the last one. It follows from the rest and is not in
	// the JSON.
	Length int64
}

// DecodeIndex reads the index of a head that Check returned, and checks every tensor in it against the segments. Those
// that lie in a base are checked against its segments if the heads of the bases are given.
func DecodeIndex(head Head, bases []Head) ([]Tensor, error) {
	tensors, err := parseIndex(head.Index)
	if err != nil {
		return nil, fmt.Errorf("%w: index: %w", ErrDamaged, err)
	}
	for i := range tensors {
		segments, count := head.Segments, int64(len(head.Bases))
		base := tensors[i].Base
		if base < -1 || base >= count {
			return nil, fmt.Errorf("%w: index: tensor %d (%q): base is %d, expected 0 to %d", ErrDamaged, i, tensors[i].Name, base, count-1)
		}
		if base >= 0 && bases != nil {
			segments = bases[base].Segments
		} else if base >= 0 {
			segments = nil
		}
		if err := tensors[i].check(segments, base >= 0 && bases == nil); err != nil {
			return nil, fmt.Errorf("%w: index: tensor %d (%q): %w", ErrDamaged, i, tensors[i].Name, err)
		}
	}
	return tensors, nil
}

// check checks what is in the JSON against the segments, unless they are unknown, and sets Length.
func (t *Tensor) check(segments []Range, unknown bool) error {
	size, known := elementSizes[t.Dtype]
	if !known {
		return fmt.Errorf("dtype is %q, expected one of torch's", t.Dtype)
	}
	if len(t.Shape) != len(t.Stride) {
		return fmt.Errorf("shape has %d dimensions and stride %d, expected the same", len(t.Shape), len(t.Stride))
	}
	length, err := extent(t.Shape, t.Stride, size)
	if err != nil {
		return err
	}
	if unknown && t.Segment >= 0 && t.Offset >= 0 && length <= math.MaxInt64-t.Offset {
		t.Length = length
		return nil
	}
	if t.Segment < -1 || t.Segment >= int64(len(segments)) {
		return fmt.Errorf("segment is %d, expected -1 to %d", t.Segment, len(segments)-1)
	}
	var room int64 // none in an empty storage
	if t.Segment >= 0 {
		room = segments[t.Segment].Length
	}
	if t.Offset < 0 || t.Offset > room || length > room-t.Offset {
		return fmt.Errorf("%d bytes at offset %d, expected them inside of the %d bytes of segment %d",
			length, t.Offset, room, t.Segment)
	}
	t.Length = length
	return nil
}

// extent returns the number of bytes from the first element to the end of the last one, 0 if there are no elements.
func extent(shape, stride []int64, size int64) (int64, error) {
	for i := range shape {
		if shape[i] < 0 || stride[i] < 0 {
			return 0, fmt.Errorf("dimension %d has size %d and stride %d, expected none negative", i, shape[i], stride[i])
		}
	}
	for _, n := range shape {
		if n == 0 {
			return 0, nil
		}
	}
	const limit = math.MaxInt64
	elements, last := int64(1), int64(0) // last: index of the last element, counted from the first
	for i, n := range shape {
		if elements > limit/n || stride[i] > 0 && n-1 > (limit-last)/stride[i] {
			return 0, fmt.Errorf("shape %v with stride %v, expected less than 2^63 elements", shape, stride)
		}
		elements *= n
		last += (n - 1) * stride[i]
	}
	if last > limit/size-1 {
		return 0, fmt.Errorf("shape %v with stride %v, expected less than 2^63 bytes", shape, stride)
	}
	return (last + 1) * size, nil
}
