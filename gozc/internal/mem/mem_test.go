package mem

import (
	"runtime"
	"testing"
)

func TestViewSharesTheMemory(t *testing.T) {
	owner := []int64{1, 2, 3}
	var pin runtime.Pinner
	pin.Pin(&owner[0])
	defer pin.Unpin()

	view := Int64s(Address(owner), 3)
	view[1] = 0x0102030405060708
	if owner[1] != view[1] {
		t.Fatalf("a write through the view did not reach its memory: %v", owner)
	}
	if raw := Bytes(Address(owner)+8, 8); len(raw) != 8 || raw[0] != 8 && raw[0] != 1 {
		t.Fatalf("the second integer reads as bytes %v", raw)
	}
	if Address(view[1:]) != Address(owner)+8 {
		t.Fatal("the address of a view is not the address it was made from")
	}
}

func TestNoElementsNeedNoAddress(t *testing.T) {
	if Bytes(0, 0) != nil || Int64s(1, 0) != nil || Address[byte](nil) != 0 {
		t.Fatal("an empty view is not nil")
	}
}

// The gopy surface turns panics into errors, so a nonsensical length must panic and not make a slice.
func TestImpossibleLengthsPanic(t *testing.T) {
	owner := make([]int64, 1)
	for _, n := range []int64{-1, 1 << 62} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("a view of %d elements did not panic", n)
				}
			}()
			Int64s(Address(owner), n)
		}()
	}
}
