package image

import (
	"fmt"
	"math"
)

// EncodeHead writes the head of an image to dst, which has to be HeadSize bytes long. Everything that Check checks is
// checked here as well, so that a mistake shows where it is made and not on another machine. The index is taken as it
// is: reading it back would take a fifth of the time that Python needs to make an image.
func EncodeHead(dst []byte, segments, blocks []Range, skeleton, index []byte, sums []uint64) error {
	size, err := HeadSize(len(segments), len(blocks), int64(len(skeleton)), int64(len(index)), int64(len(sums)))
	if err != nil {
		return err
	}
	if int64(len(dst)) != size {
		return fmt.Errorf("%w: room of %d bytes for a head of %d", ErrInput, len(dst), size)
	}
	data, err := dataSize(segments)
	if err == nil {
		err = checkBlocks(blocks, segments)
	}
	if err == nil {
		err = checkSums(int64(len(sums)), blocks)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInput, err)
	}
	if data > math.MaxInt64-size {
		return fmt.Errorf("%w: a head of %d and data of %d bytes, expected less than 2^63", ErrInput, size, data)
	}

	clear(dst)
	parts := place(int64(len(segments)), int64(len(blocks)), int64(len(skeleton)), int64(len(index)), int64(len(sums)))
	copy(dst[atMagic:], magic)
	order.PutUint32(dst[atVersion:], Version)
	order.PutUint32(dst[atOrder:], nativeOrder)
	order.PutUint64(dst[atImageSize:], uint64(size+data))
	order.PutUint64(dst[atHeadSize:], uint64(size))
	order.PutUint64(dst[atSegmentCount:], uint64(len(segments)))
	order.PutUint64(dst[atBlockCount:], uint64(len(blocks)))
	order.PutUint64(dst[atSkeletonOffset:], uint64(parts.skeleton))
	order.PutUint64(dst[atSkeletonSize:], uint64(len(skeleton)))
	order.PutUint64(dst[atIndexOffset:], uint64(parts.index))
	order.PutUint64(dst[atIndexSize:], uint64(len(index)))
	writeTable(dst[headerSize:], segments)
	writeTable(dst[parts.blocks:], blocks)
	copy(dst[parts.skeleton:], skeleton)
	copy(dst[parts.index:], index)
	order.PutUint64(dst[atSumsOffset:], uint64(parts.sums))
	order.PutUint64(dst[atSumsCount:], uint64(len(sums)))
	for i, sum := range sums {
		order.PutUint64(dst[parts.sums+sumSize*int64(i):], sum)
	}
	order.PutUint32(dst[atChecksum:], checksum(dst))
	return nil
}
