// Package layout decides where the blocks of memory of a model lie in an image.
//
// Blocks that overlap are one run of memory and stay one, so what aliases in the model aliases in the image. A
// large run is a segment of its own that is read straight from where it lies; the small ones are packed into
// one segment, because a segment costs Ray a few microseconds, whatever its size.
package layout

import (
	"errors"
	"fmt"
	"math"
)

const (
	// Alignment of segments, and of runs in the packed segment: the widest vector registers and a cache line.
	Alignment = 64

	// Coalesce is the length in bytes from which a run is a segment of its own.
	Coalesce = 64 << 10

	// MinPacked is the least length of the packed segment. Ray aligns shorter buffers to 8 bytes only, which
	// would break the row of segments that each start at a multiple of 64.
	MinPacked = 2048
)

// ErrBlock is returned when a block cannot be memory of this process, or does not lie where the layout says.
var ErrBlock = errors.New("invalid block")

// A Block is a range of memory: a torch storage, or a buffer of a pickle.
type Block struct {
	Address int64
	Length  int64
}

// A Segment is a range of the image's data.
type Segment struct {
	Address int64 // where its bytes lie now; 0 for the packed segment, which has to be put together
	Offset  int64 // from the start of the data
	Length  int64
}

// A Layout places blocks in the data of an image.
type Layout struct {
	Segments []Segment // in the order of the data; the packed one, if there is one, is last
	Offsets  []int64   // of each block, from the start of the data; 0 for empty blocks
}

// Plan places the blocks. Segments, and runs in the packed segment, are in order of first appearance.
func Plan(blocks []Block) (Layout, error) {
	runs, err := Runs(blocks)
	if err != nil {
		return Layout{}, err
	}
	plan := Layout{Offsets: make([]int64, len(blocks))}
	var end int64 // of the data so far
	for i := range runs {
		run := &runs[i]
		if run.Length < Coalesce {
			continue
		}
		if run.offset, err = place(end, run.Length); err != nil {
			return Layout{}, err
		}
		plan.Segments = append(plan.Segments, Segment{run.Address, run.offset, run.Length})
		end = run.offset + run.Length
	}
	packed := int64(-1)
	for i := range runs {
		run := &runs[i]
		if run.Length >= Coalesce {
			continue
		}
		if run.offset, err = place(end, run.Length); err != nil {
			return Layout{}, err
		}
		if packed < 0 {
			packed = run.offset
		}
		end = run.offset + run.Length
	}
	if packed >= 0 {
		if packed > math.MaxInt64-MinPacked {
			return Layout{}, fmt.Errorf("%w: all blocks together are longer than %d bytes", ErrBlock, int64(math.MaxInt64))
		}
		plan.Segments = append(plan.Segments, Segment{0, packed, max(end-packed, MinPacked)})
	}
	for _, run := range runs {
		for _, row := range run.Blocks {
			plan.Offsets[row] = run.offset + blocks[row].Address - run.Address
		}
	}
	return plan, nil
}

// place returns the first aligned offset at or after end, if length bytes fit behind it.
func place(end, length int64) (int64, error) {
	if end > math.MaxInt64-Alignment-length {
		return 0, fmt.Errorf("%w: all blocks together are longer than %d bytes", ErrBlock, int64(math.MaxInt64))
	}
	return (end + Alignment - 1) / Alignment * Alignment, nil
}
