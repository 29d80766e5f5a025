package format

import (
	"bytes"
	"errors"
	"math"
	"math/rand"
	"reflect"
	"testing"
	"time"
)

func TestHeadRoundTrip(t *testing.T) {
	image := sampleImage(t)
	head, err := Check(image, int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	parts := Parts{Segments: sampleSegments, Blocks: sampleBlocks, Skeleton: sampleSkeleton, Index: sampleIndex, About: sampleAbout}
	parts.Sums = make([]uint64, 3)
	parts.Sums = readSums(image[place(parts.Counts()).sums:], 3)
	want := Head{parts, Version, int64(len(image)), minHeadSize, order.Uint32(image[atChecksum:])}
	if !reflect.DeepEqual(head, want) {
		t.Fatalf("got  %+v\nwant %+v", head, want)
	}
}

func TestRandomHeadsRoundTrip(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewSource(seed))
	for range 300 {
		segments := make([]Range, random.Intn(20))
		var end int64
		for i := range segments {
			segments[i] = Range{align(end), 1 + random.Int63n(1<<40)}
			end = segments[i].Offset + segments[i].Length
		}
		var bases []Base
		for range random.Intn(3) {
			bases = append(bases, Base{[2]uint64{random.Uint64(), random.Uint64()}, 1<<40 + random.Int63n(1<<40)})
		}
		blocks := make([]Range, random.Intn(200))
		for i := range blocks {
			if len(bases) > 0 && random.Intn(3) == 0 {
				blocks[i] = Range{inBase(random.Intn(len(bases)), random.Int63n(1<<39)), 1 + random.Int63n(1<<27)}
			} else if len(segments) > 0 && random.Intn(10) > 0 {
				segment := segments[random.Intn(len(segments))]
				inside := random.Int63n(segment.Length)
				blocks[i] = Range{segment.Offset + inside, 1 + random.Int63n(min(segment.Length-inside, 1<<27))}
			}
		}
		skeleton := make([]byte, random.Intn(5000))
		random.Read(skeleton)
		index := append([]byte(`{"tensors":[]}`), bytes.Repeat([]byte{' '}, random.Intn(200))...)

		sums := make([]uint64, CountSums(blocks))
		for i := range sums {
			sums[i] = random.Uint64()
		}
		about := bytes.Repeat([]byte{'x'}, random.Intn(300))
		parts := Parts{segments, blocks, skeleton, index, sums, about, bases}
		encoded := encode(t, parts)
		head, err := Check(encoded, int64(len(encoded))+end)
		if err != nil {
			t.Fatal(err)
		}
		want := Head{parts, Version, int64(len(encoded)) + end, int64(len(encoded)), head.Checksum}
		if !reflect.DeepEqual(head, want) {
			t.Fatalf("got  %+v\nwant %+v", head, want)
		}
	}
}

func TestHeadSize(t *testing.T) {
	for _, test := range []struct {
		segments, blocks, skeleton, index, want int64
	}{
		{0, 0, 0, 0, 2048},
		{0, 0, 0, 1920, 2048}, // 128 + 1920
		{0, 0, 0, 1921, 2112},
		{4, 0, 1, 1856 - 64, 2048}, // 192, 192 + 64, 256 + 1792
		{4, 1, 1, 1856 - 64, 2112},
		{1000, 3000, 10, 10, 128 + 64000 + 64 + 64},
	} {
		got, err := HeadSize(Counts{Segments: test.segments, Blocks: test.blocks, Skeleton: test.skeleton, Index: test.index})
		if err != nil || got != test.want {
			t.Errorf("%+v: got %d, %v", test, got, err)
		}
	}
	for _, bad := range []int64{-1, math.MaxInt64} {
		for _, counts := range []Counts{
			{Segments: bad}, {Blocks: bad}, {Skeleton: bad}, {Index: bad}, {Sums: bad}, {About: bad}, {Bases: bad},
		} {
			if size, err := HeadSize(counts); !errors.Is(err, ErrInput) {
				t.Errorf("%+v: %d, %v", counts, size, err)
			}
		}
	}
}

func TestEncodeRefusesWhatAReaderWould(t *testing.T) {
	index := []byte(`{"tensors":[]}`)
	for name, test := range map[string]struct {
		segments, blocks []Range
	}{
		"empty segment":          {[]Range{{0, 0}}, nil},
		"first segment not at 0": {[]Range{{64, 1}}, nil},
		"gap between segments":   {[]Range{{0, 1}, {128, 1}}, nil},
		"segments overlap":       {[]Range{{0, 100}, {64, 1}}, nil},
		"segments overflow":      {[]Range{{0, math.MaxInt64}}, nil},
		"data and head overflow": {[]Range{{0, math.MaxInt64 - 64}}, nil},
		"block without segments": {nil, []Range{{0, 1}}},
		"block across segments":  {[]Range{{0, 64}, {64, 64}}, []Range{{32, 64}}},
		"block between segments": {[]Range{{0, 1}, {64, 64}}, []Range{{2, 1}}},
		"block past the end":     {[]Range{{0, 64}}, []Range{{0, 65}}},
		"block overflow":         {[]Range{{0, 64}}, []Range{{63, math.MaxInt64}}},
		"in a base that is none": {[]Range{{0, 64}}, []Range{{inBase(0, 0), 1}}},
		"negative block":         {[]Range{{0, 64}}, []Range{{-1, 1}}},
		"empty block not at 0":   {[]Range{{0, 64}}, []Range{{1, 0}}},
	} {
		parts := Parts{Segments: test.segments, Blocks: test.blocks, Index: index}
		size, err := HeadSize(parts.Counts())
		if err != nil {
			t.Fatal(err)
		}
		if err := EncodeHead(make([]byte, size), parts); !errors.Is(err, ErrInput) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, size := range []int{0, 2047, 2049, 2112} {
		if err := EncodeHead(make([]byte, size), Parts{Index: index}); !errors.Is(err, ErrInput) {
			t.Errorf("room of %d bytes: %v", size, err)
		}
	}
}

func TestPaddingOfTheHeadIsZero(t *testing.T) {
	head := bytes.Repeat([]byte{0xFF}, minHeadSize)
	if err := EncodeHead(head, Parts{Skeleton: []byte("x"), Index: []byte(`{"tensors":[]}`)}); err != nil {
		t.Fatal(err)
	}
	for _, gap := range [][2]int{{84, 88}, {96, 128}, {129, 192}, {192 + 14, minHeadSize}} {
		if !bytes.Equal(head[gap[0]:gap[1]], make([]byte, gap[1]-gap[0])) {
			t.Errorf("bytes %v are not zero", gap)
		}
	}
}
