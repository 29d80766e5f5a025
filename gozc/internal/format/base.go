package format

import (
	"fmt"
	"math"

	"github.com/zeebo/xxh3"
)

// A Base is another image, in which shared blocks of an image lie.
type Base struct {
	Sum       [2]uint64 // XXH3 of its head with 128 bits, the lower ones first; the head has the checksums of its data
	ImageSize int64
}

// Fingerprint returns what tells the image from all others, as the function does for its bytes.
func (b Base) Fingerprint() string {
	return fmt.Sprintf("%016x%016x", b.Sum[1], b.Sum[0])
}

// BaseOf returns what an image says of a base of its, and the base's head. image is the whole base.
func BaseOf(image []byte) (Base, Head, error) {
	head, err := Check(image, int64(len(image)))
	if err != nil {
		return Base{}, Head{}, err
	}
	sum := xxh3.Hash128(image[:head.HeadSize])
	return Base{[2]uint64{sum.Lo, sum.Hi}, head.ImageSize}, head, nil
}

// Fingerprint returns what tells an image from all others, as 32 hexadecimal digits. bytes begin with the image, and hold
// its head at least.
func Fingerprint(bytes []byte) (string, error) {
	head, err := Check(bytes, math.MaxInt64)
	if err != nil {
		return "", err
	}
	sum := xxh3.Hash128(bytes[:head.HeadSize])
	return Base{[2]uint64{sum.Lo, sum.Hi}, head.ImageSize}.Fingerprint(), nil
}

// Attach checks that images are those that an image shares blocks with, in the order of its head, and that the blocks
// lie in their data. It returns their heads.
func Attach(head Head, bases [][]byte) ([]Head, error) {
	if len(bases) != len(head.Bases) {
		return nil, fmt.Errorf("%w: %d images at hand, expected %d", ErrBase, len(bases), len(head.Bases))
	}
	heads := make([]Head, len(bases))
	for i, bytes := range bases {
		base, found, err := BaseOf(bytes)
		if err != nil {
			return nil, fmt.Errorf("base %d: %w", i, err)
		}
		if want := head.Bases[i]; base != want {
			return nil, fmt.Errorf("%w: base %d is %x of %d bytes, expected %x of %d bytes",
				ErrBase, i, base.Sum, base.ImageSize, want.Sum, want.ImageSize)
		}
		heads[i] = found
	}
	for i, block := range head.Blocks {
		number, offset := block.Base()
		if number < 0 {
			continue
		}
		if room := heads[number].ImageSize - heads[number].HeadSize; block.Length > room-offset {
			return nil, fmt.Errorf("%w: block %d has offset %d and length %d in base %d, expected it inside of its %d bytes of data",
				ErrDamaged, i, offset, block.Length, number, room)
		}
	}
	return heads, nil
}

func readBases(bytes []byte) ([]Base, error) {
	count := len(bytes) / baseSize
	if count > maxBases {
		return nil, fmt.Errorf("base_count is %d, expected %d at most", count, maxBases)
	}
	if count == 0 {
		return nil, nil
	}
	bases := make([]Base, count)
	for i := range bases {
		row := bytes[i*baseSize:]
		size := order.Uint64(row[16:])
		if size < minHeadSize || size > math.MaxInt64 {
			return nil, fmt.Errorf("base %d has %d bytes, expected %d at least", i, size, minHeadSize)
		}
		bases[i] = Base{[2]uint64{order.Uint64(row), order.Uint64(row[8:])}, int64(size)}
	}
	return bases, nil
}

func writeBases(bytes []byte, bases []Base) {
	for i, base := range bases {
		row := bytes[i*baseSize:]
		order.PutUint64(row, base.Sum[0])
		order.PutUint64(row[8:], base.Sum[1])
		order.PutUint64(row[16:], uint64(base.ImageSize))
	}
}
