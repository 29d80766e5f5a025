package image

import "fmt"

// Check reads and checks the head of an image, in the order that docs/format.md gives.
//
// head begins where the image begins and holds at least its head; available is the number of bytes at hand for
// the whole image, head and data.
func Check(head []byte, available int64) (Head, error) {
	if len(head) < headerSize {
		return Head{}, fmt.Errorf("%w: %d bytes, expected %d at least", ErrForeign, len(head), headerSize)
	}
	if string(head[:len(magic)]) != magic {
		return Head{}, fmt.Errorf("%w: it begins with % x, expected % x", ErrForeign, head[:len(magic)], magic)
	}
	switch mark := order.Uint32(head[atOrder:]); mark {
	case nativeOrder:
	case foreignOrder:
		return Head{}, fmt.Errorf("%w: the byte order mark is %#08x, expected %#08x; write it again on a little-endian machine",
			ErrByteOrder, mark, nativeOrder)
	default:
		return Head{}, fmt.Errorf("%w: the byte order mark is %#08x, expected %#08x", ErrDamaged, mark, nativeOrder)
	}
	version := order.Uint32(head[atVersion:])
	if version < 1 || version > Version {
		return Head{}, fmt.Errorf("%w: version %d, expected 1 to %d", ErrVersion, version, Version)
	}

	headSize, imageSize := order.Uint64(head[atHeadSize:]), order.Uint64(head[atImageSize:])
	if headSize%alignment != 0 || headSize < minHeadSize || headSize > uint64(len(head)) {
		return Head{}, fmt.Errorf("%w: head_size is %d, expected a multiple of %d from %d to the %d bytes at hand",
			ErrDamaged, headSize, alignment, minHeadSize, len(head))
	}
	if imageSize < headSize || available < 0 || imageSize > uint64(available) {
		return Head{}, fmt.Errorf("%w: image_size is %d, expected a number from %d (the head) to the %d bytes at hand",
			ErrDamaged, imageSize, headSize, available)
	}
	head = head[:headSize]

	stored, sum := order.Uint32(head[atChecksum:]), checksum(head)
	if stored != sum {
		return Head{}, fmt.Errorf("%w: the checksum of the head is %#08x, expected %#08x", ErrDamaged, sum, stored)
	}

	result := Head{Version: int(version), ImageSize: int64(imageSize), HeadSize: int64(headSize), Checksum: stored}
	parts, err := checkParts(head)
	if err != nil {
		return Head{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	result.Skeleton = head[parts.skeleton:][:order.Uint64(head[atSkeletonSize:])]
	result.Index = head[parts.index:][:order.Uint64(head[atIndexSize:])]

	result.Segments = readTable(head[headerSize:parts.blocks])
	size, err := dataSize(result.Segments)
	if err == nil && size != result.ImageSize-result.HeadSize {
		err = fmt.Errorf("the segments end at %d, expected the end of the data, %d", size, result.ImageSize-result.HeadSize)
	}
	if err != nil {
		return Head{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	result.Blocks = readTable(head[parts.blocks:][:rowSize*order.Uint64(head[atBlockCount:])])
	if err := checkBlocks(result.Blocks, result.Segments); err != nil {
		return Head{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if version > 1 {
		if err := checkSums(sumsIn(head), result.Blocks); err != nil {
			return Head{}, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		result.Sums = readSums(head[parts.sums:], sumsIn(head))
	}
	return result, nil
}

// sumsIn is the number of checksums that a head of version 2 says it has, once checkParts has seen it; 0 in version 1.
func sumsIn(head []byte) int64 {
	if order.Uint32(head[atVersion:]) == 1 {
		return 0
	}
	return int64(order.Uint64(head[atSumsCount:]))
}

// checkParts checks counts, offsets and sizes of the parts of the head against its length.
func checkParts(head []byte) (parts, error) {
	rows := uint64(len(head)-headerSize) / rowSize
	segments, blocks := order.Uint64(head[atSegmentCount:]), order.Uint64(head[atBlockCount:])
	if segments > rows {
		return parts{}, fmt.Errorf("segment_count is %d, expected %d at most in this head", segments, rows)
	}
	if blocks > rows-segments {
		return parts{}, fmt.Errorf("block_count is %d, expected %d at most in this head", blocks, rows-segments)
	}
	// From here on, all numbers are at most len(head), so that sums of them fit.
	skeleton, index := order.Uint64(head[atSkeletonSize:]), order.Uint64(head[atIndexSize:])
	if skeleton > uint64(len(head)) {
		return parts{}, fmt.Errorf("skeleton_size is %d, expected %d at most in this head", skeleton, len(head))
	}
	if index > uint64(len(head)) {
		return parts{}, fmt.Errorf("index_size is %d, expected %d at most in this head", index, len(head))
	}
	reserved := [][2]int{{atReserved, headerSize}}
	if order.Uint32(head[atVersion:]) > 1 {
		if sums := order.Uint64(head[atSumsCount:]); sums > uint64(len(head))/sumSize {
			return parts{}, fmt.Errorf("checksum_count is %d, expected %d at most in this head", sums, len(head)/sumSize)
		}
		reserved = [][2]int{{atReserved, atSumsOffset}, {atReservedAgain, headerSize}}
	}
	p := place(int64(segments), int64(blocks), int64(skeleton), int64(index), sumsIn(head))
	if at := order.Uint64(head[atSkeletonOffset:]); at != uint64(p.skeleton) {
		return parts{}, fmt.Errorf("skeleton_offset is %d, expected %d", at, p.skeleton)
	}
	if at := order.Uint64(head[atIndexOffset:]); at != uint64(p.index) {
		return parts{}, fmt.Errorf("index_offset is %d, expected %d", at, p.index)
	}
	if p.end != int64(len(head)) {
		return parts{}, fmt.Errorf("head_size is %d, expected %d after its parts", len(head), p.end)
	}
	if at := order.Uint64(head[atSumsOffset:]); len(reserved) > 1 && at != uint64(p.sums) {
		return parts{}, fmt.Errorf("checksum_offset is %d, expected %d", at, p.sums)
	}
	for _, field := range reserved {
		for at := field[0]; at < field[1]; at++ {
			if head[at] != 0 {
				return parts{}, fmt.Errorf("reserved byte %d is %d, expected 0", at, head[at])
			}
		}
	}
	return p, nil
}
