package format

import (
	"fmt"
	"math"
)

// EncodeHead writes the head of an image to dst, which has to be HeadSize bytes long. Everything that Check checks is
// checked here as well, so that a mistake shows where it is made and not on another machine. The index is taken as it
// is: reading it back would take a fifth of the time that Python needs to make an image.
func EncodeHead(dst []byte, parts Parts) error {
	counts := parts.Counts()
	size, err := HeadSize(counts)
	if err != nil {
		return err
	}
	if int64(len(dst)) != size {
		return fmt.Errorf("%w: room of %d bytes for a head of %d", ErrInput, len(dst), size)
	}
	data, err := dataSize(parts.Segments)
	if err == nil {
		err = checkBlocks(parts.Blocks, parts.Segments, parts.Bases)
	}
	if err == nil {
		err = checkSums(counts.Sums, parts.Blocks)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInput, err)
	}
	if data > math.MaxInt64-size {
		return fmt.Errorf("%w: a head of %d and data of %d bytes, expected less than 2^63", ErrInput, size, data)
	}

	clear(dst)
	at := place(counts)
	copy(dst[atMagic:], magic)
	order.PutUint32(dst[atVersion:], Version)
	order.PutUint32(dst[atOrder:], nativeOrder)
	order.PutUint64(dst[atImageSize:], uint64(size+data))
	order.PutUint64(dst[atHeadSize:], uint64(size))
	order.PutUint64(dst[atSegmentCount:], uint64(counts.Segments))
	order.PutUint64(dst[atBlockCount:], uint64(counts.Blocks))
	order.PutUint64(dst[atSkeletonOffset:], uint64(at.skeleton))
	order.PutUint64(dst[atSkeletonSize:], uint64(counts.Skeleton))
	order.PutUint64(dst[atIndexOffset:], uint64(at.index))
	order.PutUint64(dst[atIndexSize:], uint64(counts.Index))
	order.PutUint64(dst[atSumsOffset:], uint64(at.sums))
	order.PutUint64(dst[atSumsCount:], uint64(counts.Sums))
	order.PutUint64(dst[atAboutOffset:], aboutOffset(at, counts.About))
	order.PutUint64(dst[atAboutSize:], uint64(counts.About))
	order.PutUint64(dst[atBaseCount:], uint64(counts.Bases))
	writeTable(dst[headerSize:], parts.Segments)
	writeTable(dst[at.blocks:], parts.Blocks)
	copy(dst[at.skeleton:], parts.Skeleton)
	copy(dst[at.index:], parts.Index)
	for i, sum := range parts.Sums {
		order.PutUint64(dst[at.sums+sumSize*int64(i):], sum)
	}
	copy(dst[at.about:], parts.About)
	writeBases(dst[at.bases:], parts.Bases)
	order.PutUint32(dst[atChecksum:], checksum(dst))
	return nil
}

// aboutOffset is 0 where there is nothing, as in images from before there was.
func aboutOffset(at places, size int64) uint64 {
	if size == 0 {
		return 0
	}
	return uint64(at.about)
}
