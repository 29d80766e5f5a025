package format

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
	at, counts, err := checkPlaces(head)
	if err != nil {
		return Head{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	result.Skeleton = head[at.skeleton:][:counts.Skeleton]
	result.Index = head[at.index:][:counts.Index]

	result.Segments = readTable(head[headerSize:at.blocks])
	size, err := dataSize(result.Segments)
	if err == nil && size != result.ImageSize-result.HeadSize {
		err = fmt.Errorf("the segments end at %d, expected the end of the data, %d", size, result.ImageSize-result.HeadSize)
	}
	if err != nil {
		return Head{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if version > 1 {
		result.About = head[at.about:][:counts.About]
		if result.Bases, err = readBases(head[at.bases:][:baseSize*counts.Bases]); err != nil {
			return Head{}, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
	result.Blocks = readTable(head[at.blocks:][:rowSize*counts.Blocks])
	if err := checkBlocks(result.Blocks, result.Segments, result.Bases); err != nil {
		return Head{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if version > 1 {
		if err := checkSums(counts.Sums, result.Blocks); err != nil {
			return Head{}, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		result.Sums = readSums(head[at.sums:], counts.Sums)
	}
	return result, nil
}

// checkPlaces checks counts, offsets and sizes of the parts of the head against its length.
func checkPlaces(head []byte) (places, Counts, error) {
	fail := func(format string, values ...any) (places, Counts, error) {
		return places{}, Counts{}, fmt.Errorf(format, values...)
	}
	rows := uint64(len(head)-headerSize) / rowSize
	segments, blocks := order.Uint64(head[atSegmentCount:]), order.Uint64(head[atBlockCount:])
	if segments > rows {
		return fail("segment_count is %d, expected %d at most in this head", segments, rows)
	}
	if blocks > rows-segments {
		return fail("block_count is %d, expected %d at most in this head", blocks, rows-segments)
	}
	counts := Counts{Segments: int64(segments), Blocks: int64(blocks)}
	sizes := []struct {
		name string
		at   int
		row  int64
		to   *int64
	}{
		{"skeleton_size", atSkeletonSize, 1, &counts.Skeleton},
		{"index_size", atIndexSize, 1, &counts.Index},
		{"checksum_count", atSumsCount, sumSize, &counts.Sums},
		{"about_size", atAboutSize, 1, &counts.About},
		{"base_count", atBaseCount, baseSize, &counts.Bases},
	}
	reserved := atSumsOffset
	if order.Uint32(head[atVersion:]) == 1 {
		sizes, reserved = sizes[:2], headerSize
	}
	// From here on, all numbers are at most len(head), so that sums of them fit.
	for _, size := range sizes {
		most := uint64(len(head)) / uint64(size.row)
		value := order.Uint64(head[size.at:]) // once: in a store, memory can change meanwhile
		if value > most {
			return fail("%s is %d, expected %d at most in this head", size.name, value, most)
		}
		*size.to = int64(value)
	}
	p := place(counts)
	if at := order.Uint64(head[atSkeletonOffset:]); at != uint64(p.skeleton) {
		return fail("skeleton_offset is %d, expected %d", at, p.skeleton)
	}
	if at := order.Uint64(head[atIndexOffset:]); at != uint64(p.index) {
		return fail("index_offset is %d, expected %d", at, p.index)
	}
	if p.end != int64(len(head)) {
		return fail("head_size is %d, expected %d after its parts", len(head), p.end)
	}
	for at := atReserved; at < reserved; at++ {
		if head[at] != 0 {
			return fail("reserved byte %d is %d, expected 0", at, head[at])
		}
	}
	if reserved == headerSize {
		return p, counts, nil
	}
	if at := order.Uint64(head[atSumsOffset:]); at != uint64(p.sums) {
		return fail("checksum_offset is %d, expected %d", at, p.sums)
	}
	if at := order.Uint64(head[atAboutOffset:]); at != aboutOffset(p, counts.About) {
		return fail("about_offset is %d, expected %d", at, aboutOffset(p, counts.About))
	}
	return p, counts, nil
}
