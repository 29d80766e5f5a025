package format

import (
	"errors"
	"math"
	"runtime"
	"strings"
	"testing"
)

// Each row breaks one thing under a right checksum; they stand in the order in which a reader checks.
func TestCheckNamesWhatIsWrong(t *testing.T) {
	u32 := func(at int, value uint32) func([]byte) { return func(b []byte) { order.PutUint32(b[at:], value) } }
	u64 := func(at int, value uint64) func([]byte) { return func(b []byte) { order.PutUint64(b[at:], value) } }
	const segments, blocks = headerSize, headerSize + 2*rowSize
	for _, test := range []struct {
		name   string
		change func([]byte)
		want   error
		part   string
	}{
		{"nothing", func([]byte) {}, nil, ""},
		{"magic", func(b []byte) { b[0] = 'P' }, ErrForeign, "begins with"},
		{"text transfer", func(b []byte) { copy(b, "\x89RZC\n\x1a\n") }, ErrForeign, "begins with"},
		{"big-endian", u32(atOrder, foreignOrder), ErrByteOrder, "byte order"},
		{"no byte order", u32(atOrder, 0), ErrDamaged, "byte order"},
		{"version 0", u32(atVersion, 0), ErrVersion, "version 0"},
		{"next version", u32(atVersion, Version+1), ErrVersion, "version 3"},
		{"big-endian and next version", func(b []byte) { u32(atOrder, foreignOrder)(b); u32(atVersion, 3)(b) }, ErrByteOrder, ""},
		{"head_size odd", u64(atHeadSize, 2049), ErrDamaged, "head_size"},
		{"head_size small", u64(atHeadSize, 1984), ErrDamaged, "head_size"},
		{"head_size zero", u64(atHeadSize, 0), ErrDamaged, "head_size"},
		{"head_size past the end", u64(atHeadSize, 1<<20), ErrDamaged, "head_size"},
		{"head_size huge", u64(atHeadSize, math.MaxUint64-63), ErrDamaged, "head_size"},
		{"image_size below the head", u64(atImageSize, 2047), ErrDamaged, "image_size"},
		{"image_size past the end", u64(atImageSize, 1<<40), ErrDamaged, "image_size"},
		{"image_size huge", u64(atImageSize, math.MaxUint64), ErrDamaged, "image_size"},
		{"segment_count one more", u64(atSegmentCount, 3), ErrDamaged, ""},
		{"segment_count huge", u64(atSegmentCount, math.MaxUint64), ErrDamaged, "segment_count"},
		{"segment_count times row overflows", u64(atSegmentCount, 1<<60), ErrDamaged, "segment_count"},
		{"block_count huge", u64(atBlockCount, 1<<60), ErrDamaged, "block_count"},
		{"counts overflow together", func(b []byte) {
			u64(atSegmentCount, 2)(b)
			u64(atBlockCount, math.MaxUint64-1)(b)
		}, ErrDamaged, "block_count"},
		{"skeleton_size huge", u64(atSkeletonSize, math.MaxUint64), ErrDamaged, "skeleton_size"},
		{"skeleton_size into the index", u64(atSkeletonSize, 100), ErrDamaged, "index_offset"},
		{"index_size huge", u64(atIndexSize, 1<<63), ErrDamaged, "index_size"},
		{"index_size past the head", u64(atIndexSize, 2000), ErrDamaged, "head_size"},
		{"skeleton_offset", u64(atSkeletonOffset, 128), ErrDamaged, "skeleton_offset"},
		{"skeleton_offset huge", u64(atSkeletonOffset, math.MaxUint64), ErrDamaged, "skeleton_offset"},
		{"index_offset", u64(atIndexOffset, 0), ErrDamaged, "index_offset"},
		{"reserved first", func(b []byte) { b[84] = 1 }, ErrDamaged, "reserved byte 84"},
		{"reserved between", func(b []byte) { b[87] = 1 }, ErrDamaged, "reserved byte 87"},
		{"about_offset", u64(atAboutOffset, 0), ErrDamaged, "about_offset"},
		{"about_size", u64(atAboutSize, 1<<40), ErrDamaged, "about_size"},
		{"about_size other", u64(atAboutSize, 0), ErrDamaged, "about_offset"},
		{"base_count", u64(atBaseCount, 1<<40), ErrDamaged, "base_count"},
		{"base_count other", u64(atBaseCount, 1), ErrDamaged, "base 0 has 0 bytes"},
		{"version 1 with checksums", u32(atVersion, 1), ErrDamaged, ""},
		{"checksum_count one more", u64(atSumsCount, 4), ErrDamaged, "checksum_count is 4, expected 3"},
		{"checksum_count huge", u64(atSumsCount, math.MaxUint64), ErrDamaged, "checksum_count"},
		{"checksum_offset", u64(atSumsOffset, 64), ErrDamaged, "checksum_offset"},
		{"first segment not at 0", u64(segments, 64), ErrDamaged, "segment 0"},
		{"empty segment", u64(segments+8, 0), ErrDamaged, "segment 0"},
		{"segments overlap", u64(segments+8, 5000), ErrDamaged, "segment 1"},
		{"segment overflows", u64(segments+16+8, math.MaxInt64), ErrDamaged, "segment 1"},
		{"segment negative", u64(segments+16+8, math.MaxUint64), ErrDamaged, "segment 1"},
		{"segments end early", u64(segments+16+8, 2047), ErrDamaged, "segments end"},
		{"segments end late", u64(segments+16+8, 2049), ErrDamaged, "segments end"},
		{"block across segments", u64(blocks+8, 4001), ErrDamaged, "block 0"},
		{"block past the data", u64(blocks+16, 1<<40), ErrDamaged, "block 1"},
		{"block overflows", u64(blocks+16+8, math.MaxInt64), ErrDamaged, "block 1"},
		{"block offset negative", u64(blocks+32, math.MaxUint64), ErrDamaged, "block 2"},
		{"empty block not at 0", u64(blocks+48, 64), ErrDamaged, "block 3"},
	} {
		t.Run(test.name, func(t *testing.T) {
			image := sampleImage(t)
			test.change(image)
			seal(image[:minHeadSize])
			_, err := Check(image, int64(len(image)))
			if !errors.Is(err, test.want) {
				t.Fatalf("got %v, want %v", err, test.want)
			}
			if err != nil && !strings.Contains(err.Error(), test.part) {
				t.Fatalf("%q does not name %q", err, test.part)
			}
		})
	}
}

func TestEveryFlippedBitOfAHeadIsNoticed(t *testing.T) {
	image := sampleImage(t)
	for i := range minHeadSize {
		for bit := range 8 {
			image[i] ^= 1 << bit
			if _, err := Check(image, int64(len(image))); !typed(err) {
				t.Fatalf("bit %d of byte %d: %v", bit, i, err)
			}
			image[i] ^= 1 << bit
		}
	}
}

func TestFlippedBytesUnderARightChecksumAreSafe(t *testing.T) {
	image := sampleImage(t)
	for i := range minHeadSize {
		for _, flip := range []byte{0x01, 0x80, 0xFF} {
			image[i] ^= flip
			saved := order.Uint32(image[atChecksum:])
			if i < atChecksum || i >= atReserved {
				seal(image[:minHeadSize])
			}
			if r, err := Open(image); err == nil {
				readAll(t, r)
			} else if !typed(err) {
				t.Fatalf("byte %d: %v", i, err)
			}
			order.PutUint32(image[atChecksum:], saved)
			image[i] ^= flip
		}
	}
}

func TestEveryTruncationIsNoticed(t *testing.T) {
	image := sampleImage(t)
	for size := range len(image) {
		cut := image[:size:size]
		if _, err := Check(cut, int64(size)); !typed(err) {
			t.Fatalf("%d of %d bytes: %v", size, len(image), err)
		}
		if size >= minHeadSize {
			// the head alone at hand, the data elsewhere
			if _, err := Check(cut, int64(len(image))); err != nil {
				t.Fatalf("%d of %d bytes, all of the head: %v", size, len(image), err)
			}
		}
	}
	if _, err := Check(nil, 0); !errors.Is(err, ErrForeign) {
		t.Fatalf("nothing: %v", err)
	}
	if _, err := Check(image, -1); !errors.Is(err, ErrDamaged) {
		t.Fatalf("less than nothing at hand: %v", err)
	}
}

func TestHugeCountsAllocateNothing(t *testing.T) {
	image := sampleImage(t)
	order.PutUint64(image[atSegmentCount:], 1<<40)
	order.PutUint64(image[atBlockCount:], 1<<40)
	seal(image[:minHeadSize])
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := Check(image, int64(len(image))); !errors.Is(err, ErrDamaged) {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if bytes := after.TotalAlloc - before.TotalAlloc; bytes > 1<<20 {
		t.Fatalf("%d bytes allocated for a head of %d", bytes, minHeadSize)
	}
}

func readAll(tb testing.TB, r *Reader) {
	tb.Helper()
	for _, tensor := range r.Tensors() {
		_, bytes, ok := r.Tensor(tensor.Name)
		if !ok || len(bytes) == 0 && tensor.Length != 0 {
			tb.Fatalf("tensor %+v cannot be read", tensor)
		}
	}
}

func FuzzCheck(f *testing.F) {
	f.Add(sampleImage(f))
	f.Add(encode(f, Parts{Index: []byte(`{"tensors":[]}`)}))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, image []byte) {
		if _, err := Open(image); err != nil && !typed(err) {
			t.Fatal(err)
		}
		if len(image) < minHeadSize {
			return
		}
		// The checksum keeps a fuzzer out: let it in, to all that lies behind.
		for _, size := range []int{minHeadSize, len(image) / alignment * alignment} {
			sealed := append([]byte(nil), image...)
			copy(sealed, magic)
			order.PutUint32(sealed[atVersion:], 1+uint32(sealed[atVersion])%Version)
			order.PutUint32(sealed[atOrder:], nativeOrder)
			order.PutUint64(sealed[atHeadSize:], uint64(size))
			seal(sealed[:size])
			r, err := Open(sealed)
			if err == nil {
				readAll(t, r)
				head := r.Head()
				again := make([]byte, head.HeadSize)
				if err := EncodeHead(again, head.Parts); err != nil {
					t.Fatalf("a head that reads cannot be written: %v", err)
				}
			} else if !typed(err) {
				t.Fatal(err)
			}
		}
	})
}

// The size of a big model's head: 2000 blocks, a skeleton of 150 KB.
func BenchmarkCheck200KB(b *testing.B) {
	segments := make([]Range, 1000)
	blocks := make([]Range, 2000)
	var end int64
	for i := range segments {
		segments[i] = Range{align(end), 100000}
		end = segments[i].Offset + segments[i].Length
		blocks[2*i], blocks[2*i+1] = segments[i], segments[i]
	}
	head := encode(b, Parts{
		Segments: segments, Blocks: blocks, Skeleton: make([]byte, 152000), Index: []byte(`{"tensors":[]}`),
		Sums: make([]uint64, CountSums(blocks)),
	})
	b.SetBytes(int64(len(head)))
	for b.Loop() {
		if _, err := Check(head, int64(len(head))+end); err != nil {
			b.Fatal(err)
		}
	}
}
