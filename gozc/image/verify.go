package image

import (
	"fmt"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/text"
)

// A SumError says which bytes of an image are not those that were written. It is an ErrDamaged.
type SumError struct {
	Tensors []string // those in the block; none if it is something else
	Block   int      // row of the block table
	Length  int64    // of the block
	Offset  int64    // of the block in the image, or in that of the base
	Base    int      // row in Image.Bases of the image in which it lies; -1: in its own
}

func (e *SumError) Error() string {
	what := "something that is no named tensor"
	if len(e.Tensors) > 0 {
		what = "tensor " + text.Quote(e.Tensors[0])
	}
	if more := len(e.Tensors) - 1; more > 0 {
		what += fmt.Sprintf(" and %d that share its memory", more)
	}
	of := ""
	if e.Base >= 0 {
		of = fmt.Sprintf(" of base %d", e.Base)
	}
	return fmt.Sprintf("the bytes of %s (block %d, %s bytes at %s%s) are not those that were put",
		what, e.Block, text.Number(e.Length), text.Number(e.Offset), of)
}

func (e *SumError) Unwrap() error { return ErrDamaged }

// Verify compares all bytes of the image, those that it shares with others included, with the checksums in its head. It
// takes as long as reading them, on all processors. The error is a *SumError if some differ, or ErrNoSums.
func (im *Image) Verify() error {
	if im.reader == nil {
		return ErrClosed
	}
	block, err := im.reader.Verify()
	if err == nil && block < 0 {
		return nil
	}
	if err == nil {
		err = im.sumError(block)
	}
	if im.path != "" {
		err = &FileError{im.path, err}
	}
	return err
}

func (im *Image) sumError(block int) error {
	row, head := im.reader.Head().Blocks[block], im.reader.Head()
	base, offset := row.Base()
	if base >= 0 {
		head = im.reader.Heads()[base]
	}
	found := &SumError{Block: block, Length: row.Length, Offset: head.HeadSize + offset, Base: base}
	for _, at := range im.reader.InBlock(block) {
		found.Tensors = append(found.Tensors, im.tensors[at].Name)
	}
	return found
}
