// Package safetensors reads the header of a safetensors file: the header's length (8 bytes, little-endian), the header
// (a JSON object from names to dtype, shape and place of a tensor), and the tensors' bytes up to the end of the file.
//
// It takes and refuses the files that the format's own implementation, a Rust crate, does, also where that goes beyond
// the format's description: white space before the object, keys that it does not know, a tensor described by a list,
// and the last of two tensors of the same name. It differs in one thing: of a floating-point number under such an
// unknown key, which nobody reads, the largest that is taken is the largest there is, and not one that is smaller by
// a few units in the last place.
package safetensors

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/bits"
	"slices"
)

const (
	lengthSize = 8

	// MaxHeader is the length in bytes of the longest header that a reader takes.
	MaxHeader = 100_000_000
)

// A Tensor is an entry of a header.
type Tensor struct {
	Name  string   `json:"name"`
	Dtype string   `json:"dtype"` // the format's name: F32
	Shape []uint64 `json:"shape"`
	Begin uint64   `json:"begin"` // in bytes, from the start of the data
	End   uint64   `json:"end"`
}

// A Header says what is in a file.
type Header struct {
	Metadata map[string]string `json:"metadata"`
	Tensors  []Tensor          `json:"tensors"` // in the order of the data, those of no bytes by name
	Data     int64             `json:"data"`    // where the data begins in the file
}

// Read reads the header at the start of a file of fileSize bytes, of which head is at hand, and checks every tensor in
// it. The data does not have to be at hand.
func Read(head []byte, fileSize int64) (Header, error) {
	if len(head) < lengthSize {
		return Header{}, fmt.Errorf("%w: %d bytes, expected at least the %d of the header's length",
			ErrForeign, len(head), lengthSize)
	}
	length := binary.LittleEndian.Uint64(head)
	if length > MaxHeader {
		return Header{}, fmt.Errorf("%w: a header of %d bytes, expected at most %d", ErrForeign, length, MaxHeader)
	}
	data := lengthSize + int64(length)
	if data > min(fileSize, int64(len(head))) {
		return Header{}, fmt.Errorf("%w: a header of %d bytes, and %d follow its length: the file was cut off",
			ErrDamaged, length, min(fileSize, int64(len(head)))-lengthSize)
	}
	text := head[lengthSize:data]
	if first := firstOf(text); first != '{' {
		return Header{}, fmt.Errorf("%w: the header begins with %q, expected '{'", ErrForeign, first)
	}
	header, err := parse(text)
	if err != nil {
		return Header{}, fmt.Errorf("%w: header: %w", ErrDamaged, err)
	}
	header.Data = data
	slices.SortFunc(header.Tensors, func(a, b Tensor) int {
		return cmp.Or(cmp.Compare(a.Begin, b.Begin), cmp.Compare(a.End, b.End), cmp.Compare(a.Name, b.Name))
	})
	var end uint64
	for _, tensor := range header.Tensors {
		if err := tensor.check(end); err != nil {
			return Header{}, fmt.Errorf("%w: tensor %.100q: %w", ErrDamaged, tensor.Name, err)
		}
		end = tensor.End
	}
	if have := uint64(fileSize - data); end != have {
		return Header{}, fmt.Errorf("%w: %d bytes of data, expected the %d of its tensors", ErrDamaged, have, end)
	}
	return header, nil
}

// firstOf returns the first byte that is no white space, 0 if there is none.
func firstOf(text []byte) byte {
	for _, b := range text {
		switch b {
		case ' ', '\t', '\r', '\n':
		default:
			return b
		}
	}
	return 0
}

// check checks a tensor that has to begin at a certain byte of the data.
func (t Tensor) check(begin uint64) error {
	if t.Begin != begin {
		return fmt.Errorf("begins at byte %d of the data, expected byte %d, where the one before ends", t.Begin, begin)
	}
	if t.End < t.Begin {
		return fmt.Errorf("ends at byte %d of the data, before it begins at %d", t.End, t.Begin)
	}
	size, err := t.bits()
	if err != nil {
		return err
	}
	if size%8 != 0 {
		return fmt.Errorf("%s has %d bits, expected whole bytes", t.kind(), size)
	}
	if t.End-t.Begin != size/8 {
		return fmt.Errorf("has %d bytes, expected %d for %s", t.End-t.Begin, size/8, t.kind())
	}
	return nil
}

// bits returns the number of bits that the tensor's dtype and shape take. Sizes are multiplied in their order, so that
// a zero does not make up for what overflows before it.
func (t Tensor) bits() (uint64, error) {
	size := uint64(1)
	for _, n := range append(slices.Clip(t.Shape), elementBits[t.Dtype]) {
		high, low := bits.Mul64(size, n)
		if high != 0 {
			return 0, fmt.Errorf("%s, expected less than 2^64 bits", t.kind())
		}
		size = low
	}
	return size, nil
}

// kind describes the tensor in an error, with its first dimensions if there are very many.
func (t Tensor) kind() string {
	const most = 16
	if n := len(t.Shape); n > most {
		return fmt.Sprintf("%s of %d dimensions, which begin with %v", t.Dtype, n, t.Shape[:most])
	}
	return fmt.Sprintf("%s of shape %v", t.Dtype, t.Shape)
}

// JSON returns the header as a JSON text with the keys of Header and Tensor.
func (h Header) JSON() (string, error) {
	text, err := json.Marshal(h)
	return string(text), err
}
