package layout

import (
	"fmt"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/mem"
)

// Pack fills dst, the buffer of the packed segment, with the blocks that lie in it, and with zeros between them.
//
// packed is the segment's offset in the data: as it is the last segment, the blocks from there on are the
// packed ones.
func Pack(blocks []Block, offsets []int64, packed int64, dst []byte) error {
	if len(blocks) != len(offsets) {
		return fmt.Errorf("%w: %d blocks with %d offsets", ErrBlock, len(blocks), len(offsets))
	}
	clear(dst)
	for row, block := range blocks {
		if block.Length == 0 || offsets[row] < packed {
			continue
		}
		start, size := offsets[row]-packed, int64(len(dst))
		if block.Address <= 0 || block.Length < 0 || start < 0 || start > size || block.Length > size-start {
			return fmt.Errorf("%w: block %d is %d bytes at address %d and at %d in a packed segment of %d bytes",
				ErrBlock, row, block.Length, block.Address, start, size)
		}
		copy(dst[start:], mem.Bytes(block.Address, block.Length))
	}
	return nil
}
