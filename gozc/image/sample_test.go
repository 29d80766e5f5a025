package image

import (
	"testing"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/format"
)

// imageOf is an image of one segment, with these entries in its index.
func imageOf(t testing.TB, entries string, data []byte) []byte {
	t.Helper()
	rows := []format.Range{{Offset: 0, Length: int64(len(data))}}
	parts := format.Parts{
		Segments: rows, Blocks: rows, Sums: format.Sums([][]byte{data}), Skeleton: []byte("\x00\x00\x00\x00"),
		Index: []byte(`{"tensors":[` + entries + `]}`),
	}
	size, err := format.HeadSize(format.Counts{
		Segments: 1, Blocks: 1, Skeleton: int64(len(parts.Skeleton)), Index: int64(len(parts.Index)), Sums: int64(len(parts.Sums)),
	})
	if err != nil {
		t.Fatal(err)
	}
	image := make([]byte, size, size+int64(len(data)))
	if err := format.EncodeHead(image, parts); err != nil {
		t.Fatal(err)
	}
	return append(image, data...)
}
