package gozc

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/mem"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/shm"
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
	record := make([]int64, 2)
	to := address(t, record)
	for _, mode := range []int64{1, 2} {
		mapped := must(Map(at+8, 100, 0, mode, to))
		must(Prefault(mapped, 100))
		if mapped%4096 != 8 || mapped == at+8 || record[0] != mapped-8 || record[1] != 4096 {
			t.Errorf("mode %d: %#x is mapped at %#x, %d bytes at %#x", mode, at+8, mapped, record[1], record[0])
		}
		must(Detach(to, mode))
		if err := (shm.Mapping{Base: record[0], Length: record[1]}).Unmap(); err != nil {
			t.Error(err)
		}
	}
	if _, err := file.WriteAt([]byte("weights"), 0); err != nil {
		t.Fatal(err)
	}
	mapped := must(MapFile(int64(file.Fd()), 4000, to))
	private := mem.Bytes(mapped, 4000)
	if string(private[:7]) != "weights" || record[0] != mapped || record[1] != 4000 {
		t.Errorf("%q is mapped, %d bytes at %#x", private[:7], record[1], record[0])
	}
	private[0] = 'W'
	if memory[0] != 'w' {
		t.Error("a write went to the file")
	}
	if err := (shm.Mapping{Base: record[0], Length: record[1]}).Unmap(); err != nil {
		t.Error(err)
	}
	clear(record)
	_, err = MapFile(1<<20, 4096, to)
	wantCode(t, "no descriptor", "system", err)
	for _, bad := range [][2]int64{{-1, 1}, {1 << 40, 1}, {0, 0}, {0, -1}, {0, 1<<62 + 1}} {
		_, err = MapFile(bad[0], bad[1], to)
		wantCode(t, "MapFile", "argument", err)
	}
	_, err = Map(at, 1, 0, 3, to)
	wantCode(t, "mode 3", "argument", err)
	_, err = Map(address(t, make([]byte, 8)), 8, 0, 1, to)
	wantCode(t, "heap", "private", err)
	if record[0] != 0 || record[1] != 0 {
		t.Errorf("nothing is mapped, and recorded is %#x", record)
	}
}
