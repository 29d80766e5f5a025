package shm

import (
	"errors"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/mem"
)

// resident counts the pages of a range that are in this process's page table.
func resident(tb testing.TB, memory []byte) int {
	tb.Helper()
	pagemap, err := os.Open("/proc/self/pagemap")
	if err != nil {
		tb.Skip(err)
	}
	defer pagemap.Close()
	start, end := pages(mem.Address(memory), int64(len(memory)))
	size := int64(os.Getpagesize())
	entries := make([]byte, (end-start)/size*8)
	if _, err := pagemap.ReadAt(entries, start/size*8); err != nil {
		tb.Skip(err)
	}
	count := 0
	for i := 7; i < len(entries); i += 8 {
		count += int(entries[i] >> 7) // the top bit: present
	}
	return count
}

func TestPrefaultFillsThePageTable(t *testing.T) {
	page := os.Getpagesize()
	s := newStore(t, 64*page)
	private := mapped(t, s.address+100, int64(40*page), 0, CopyOnWrite)
	if before := resident(t, private); before == 41 {
		t.Fatal("all pages are there before")
	}
	if err := Prefault(mem.Address(private), int64(len(private))); err != nil {
		t.Fatal(err)
	}
	if after := resident(t, private); after != 41 { // it begins inside of a page, and so ends inside of one
		t.Fatalf("%d pages of 41", after)
	}
}

func TestPrefaultOfManyChunks(t *testing.T) {
	const size = 3*chunk + 12345 // sparse: no page is there before
	file, err := os.Create(t.TempDir() + "/sparse")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(size); err != nil {
		t.Fatal(err)
	}
	memory, err := unix.Mmap(int(file.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(memory)
	if err := Prefault(mem.Address(memory), size); err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	if got, want := resident(t, memory), (size+page-1)/page; got != want {
		t.Fatalf("%d pages of %d", got, want)
	}
}

func TestTouchFillsThePageTableOnOldSystems(t *testing.T) {
	page := os.Getpagesize()
	s := newStore(t, 16*page)
	private := mapped(t, s.address, int64(16*page), 0, CopyOnWrite)
	touch(private)
	if after := resident(t, private); after != 16 {
		t.Fatalf("%d pages of 16", after)
	}
}

func TestPrefaultOfWhatIsNotMapped(t *testing.T) {
	page := int64(os.Getpagesize())
	s := newStore(t, int(page))
	made := mapping(t, s.address, page, 0, CopyOnWrite)
	unmapped(t, made)
	if err := Prefault(made.Address, page); !errors.Is(err, unix.ENOMEM) {
		t.Fatal(err)
	}
}

func TestAFaultWhileTouchingIsAPanic(t *testing.T) {
	page := os.Getpagesize()
	s := newStore(t, 2*page)
	private := mapped(t, s.address, int64(2*page), 0, CopyOnWrite)
	if err := s.file.Truncate(int64(page)); err != nil { // reading the second page is a bus error from now on
		t.Fatal(err)
	}
	defer func() {
		if err, ok := recover().(runtime.Error); !ok {
			t.Fatalf("%v", err)
		}
	}()
	touch(private)
	t.Fatal("the page was read")
}

func TestPrefaultOfNothing(t *testing.T) {
	if err := Prefault(int64(os.Getpagesize())+1, 0); err != nil {
		t.Fatal(err)
	}
}
