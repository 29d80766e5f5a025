package gozc

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMapThroughAddresses(t *testing.T) {
	must := must(t)
	file, err := os.CreateTemp(t.TempDir(), "plasma")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Write(make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	memory, err := unix.Mmap(int(file.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(memory)
	at := address(t, memory)
	for _, mode := range []int64{1, 2} {
		mapped := must(Map(at+8, 100, 0, mode))
		must(Prefault(mapped, 100))
		if mapped%4096 != 8 || mapped == at+8 {
			t.Errorf("mode %d: %#x is mapped at %#x", mode, at+8, mapped)
		}
		must(Detach(mapped))
		must(Unmap(mapped))
	}
	_, err = Map(at, 1, 0, 3)
	wantCode(t, "mode 3", "argument", err)
	_, err = Map(address(t, make([]byte, 8)), 8, 0, 1)
	wantCode(t, "heap", "private", err)
}
