package format

import (
	"errors"
	"testing"
)

// parts of a small sound image: a large segment and one of small blocks, with an alias and an empty block.
var (
	sampleSegments = []Range{{0, 4000}, {4032, 2048}}
	sampleBlocks   = []Range{{0, 4000}, {4032, 12}, {100, 8}, {0, 0}}
	sampleSkeleton = []byte("\x04\x00\x00\x00the pickle")
	sampleAbout    = []byte(`{"class":"Sample"}`)
	sampleIndex    = []byte(`{"tensors":[` +
		`{"name":"weight","dtype":"float32","shape":[10,100],"stride":[100,1],"segment":0,"offset":0,"persistent":true},` +
		`{"name":"bias","dtype":"int32","shape":[3],"stride":[1],"segment":1,"offset":0,"persistent":false},` +
		`{"name":"none","dtype":"bfloat16","shape":[0,3],"stride":[3,1],"segment":-1,"offset":0,"persistent":true}]}`)
)

// sampleImage is that image, head and data.
func sampleImage(tb testing.TB) []byte {
	tb.Helper()
	data := make([]byte, 4032+2048)
	for i := range data {
		data[i] = byte(i * 7)
	}
	var blocks [][]byte
	for _, block := range sampleBlocks {
		blocks = append(blocks, data[block.Offset:][:block.Length])
	}
	return append(encode(tb, Parts{
		Segments: sampleSegments, Blocks: sampleBlocks, Skeleton: sampleSkeleton, Index: sampleIndex, Sums: Sums(blocks),
		About: sampleAbout,
	}), data...)
}

func encode(tb testing.TB, parts Parts) []byte {
	tb.Helper()
	size, err := HeadSize(parts.Counts())
	if err != nil {
		tb.Fatal(err)
	}
	head := make([]byte, size)
	if err := EncodeHead(head, parts); err != nil {
		tb.Fatal(err)
	}
	return head
}

// seal writes a new checksum, for bytes that are wrong in spite of a right one.
func seal(head []byte) {
	order.PutUint32(head[atChecksum:], checksum(head))
}

// typed tells whether err is one of those that Check promises.
func typed(err error) bool {
	for _, sentinel := range []error{ErrForeign, ErrByteOrder, ErrVersion, ErrDamaged} {
		if errors.Is(err, sentinel) {
			return true
		}
	}
	return false
}
