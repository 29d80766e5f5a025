package shm

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/mem"
)

// A store is a shared mapping of a file without a name, as Ray's object store makes it.
type store struct {
	memory  []byte
	address int64
	file    *os.File
}

func newStore(tb testing.TB, size int) *store {
	tb.Helper()
	descriptor, err := unix.MemfdCreate("plasma", unix.MFD_CLOEXEC)
	if err != nil {
		tb.Fatal(err)
	}
	file := os.NewFile(uintptr(descriptor), "plasma")
	tb.Cleanup(func() { file.Close() })
	if err := file.Truncate(int64(size)); err != nil {
		tb.Fatal(err)
	}
	memory, err := unix.Mmap(descriptor, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := unix.Munmap(memory); err != nil {
			tb.Error(err)
		}
	})
	for i := range memory {
		memory[i] = byte(i % 251)
	}
	return &store{memory, mem.Address(memory), file}
}

func mapped(tb testing.TB, address, length int64, raylet int, mode Mode) []byte {
	tb.Helper()
	mapping := mapping(tb, address, length, raylet, mode)
	tb.Cleanup(func() { unmapped(tb, mapping) })
	return mem.Bytes(mapping.Address, length)
}

func mapping(tb testing.TB, address, length int64, raylet int, mode Mode) Mapping {
	tb.Helper()
	made, err := Map(address, length, raylet, mode)
	if err != nil {
		tb.Fatal(err)
	}
	return made
}

func unmapped(tb testing.TB, mapping Mapping) {
	tb.Helper()
	if err := mapping.Unmap(); err != nil {
		tb.Error(err)
	}
}

func openDescriptors(tb testing.TB) int {
	tb.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	return len(entries)
}

func TestPrivateWritesDoNotReachTheStore(t *testing.T) {
	page := os.Getpagesize()
	s := newStore(t, 8*page)
	at, length := page+64, 3*page // begins and ends inside of a page, away from the start of the file
	open := openDescriptors(t)
	private := mapped(t, s.address+int64(at), int64(length), 0, CopyOnWrite)
	other := mapped(t, s.address+int64(at), int64(length), 0, CopyOnWrite)
	if now := openDescriptors(t); now != open {
		t.Errorf("%d descriptors before, %d after: one stayed open", open, now)
	}
	if !bytes.Equal(private, s.memory[at:at+length]) {
		t.Fatal("the mapping has other bytes")
	}
	s.memory[at+1] = 252 // the pages are shared until they are written to
	if private[1] != 252 || other[1] != 252 {
		t.Fatal("the mapping is a copy")
	}
	before := bytes.Clone(s.memory)
	for i := range private {
		private[i] = 0xFF
	}
	if !bytes.Equal(s.memory, before) || !bytes.Equal(other, before[at:at+length]) {
		t.Fatal("a private write has reached the store")
	}
}

func TestReadOnlyMappingIsAnAlias(t *testing.T) {
	page := os.Getpagesize()
	s := newStore(t, 4*page)
	s.file.Close() // no file is needed
	at := int64(page + 100)
	alias := mapped(t, s.address+at, int64(page), 0, ReadOnly)
	if !bytes.Equal(alias, s.memory[at:at+int64(page)]) {
		t.Fatal("the mapping has other bytes")
	}
	s.memory[at] = 252
	if alias[0] != 252 {
		t.Fatal("the mapping is a copy")
	}
	region, err := Locate(mem.Address(alias), int64(page))
	if err != nil || !region.Shared {
		t.Fatalf("%+v, %v", region, err)
	}
	if permissions := permissionsOf(t, mem.Address(alias)); permissions != "r--s" {
		t.Fatalf("the alias is %s", permissions)
	}
	if permissions := permissionsOf(t, s.address); permissions != "rw-s" {
		t.Fatalf("the store's own mapping is %s now", permissions)
	}
}

func permissionsOf(tb testing.TB, address int64) string {
	tb.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		region, err := parseLine(line)
		if err != nil {
			tb.Fatal(err)
		}
		if address >= region.Start && address < region.End {
			return strings.Fields(line)[1]
		}
	}
	tb.Fatalf("%#x is not mapped", address)
	return ""
}

func TestUnmapTakesTheWholeMappingAway(t *testing.T) {
	page := int64(os.Getpagesize())
	s := newStore(t, int(4*page))
	for _, mode := range []Mode{CopyOnWrite, ReadOnly} {
		made := mapping(t, s.address+8, 2*page, 0, mode)
		if made.Address != made.Base+8 || made.Length != 3*page || made.Mode != mode {
			t.Fatalf("%+v", made)
		}
		unmapped(t, made)
		for at := made.Base; at < made.Base+made.Length; at += page {
			if region, err := Locate(at, 1); err == nil && region.File.Inode != 0 {
				t.Fatalf("mode %d: still mapped: %+v", mode, region)
			}
		}
	}
}

func TestMemoryOfThisProcessIsPrivate(t *testing.T) {
	page := os.Getpagesize()
	anonymous, err := unix.Mmap(-1, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(anonymous)
	s := newStore(t, page)
	file, err := unix.Mmap(int(s.file.Fd()), 0, page, unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(file)
	for name, test := range map[string]struct{ address, length int64 }{
		"heap":                  {mem.Address(make([]byte, 100)), 100},
		"anonymous mapping":     {mem.Address(anonymous), 10},
		"private file mapping":  {mem.Address(file), 10},
		"past the mapping":      {s.address, 1 << 40},
		"nothing mapped":        {1 << 12, 10},
		"null":                  {0, 10},
		"no bytes":              {s.address, 0},
		"the end of all memory": {1<<63 - 1, 10},
	} {
		for _, mode := range []Mode{CopyOnWrite, ReadOnly} {
			if _, err := Map(test.address, test.length, 0, mode); !errors.Is(err, ErrPrivate) {
				t.Errorf("%s, mode %d: %v", name, mode, err)
			}
		}
	}
	if _, err := Map(s.address, 10, 0, 3); !errors.Is(err, ErrMode) {
		t.Errorf("mode 3: %v", err)
	}
}

func TestBothWaysToLocateAgree(t *testing.T) {
	page := os.Getpagesize()
	s := newStore(t, 8*page)
	part, err := unix.Mmap(int(s.file.Fd()), int64(2*page), 3*page, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(part)
	address := mem.Address(part) + 100
	parsed, err := parseMaps(address)
	if err != nil {
		t.Fatal(err)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(s.file.Fd()), &stat); err != nil {
		t.Fatal(err)
	}
	want := Region{mem.Address(part), mem.Address(part) + int64(3*page), int64(2 * page), statAs(&stat), true}
	if parsed != want {
		t.Errorf("parsed  %+v\nwant    %+v", parsed, want)
	}
	queried, err := queryMaps(address)
	if errors.Is(err, unix.ENOTTY) {
		t.Skip("this kernel has no PROCMAP_QUERY")
	}
	if err != nil || queried != want {
		t.Errorf("queried %+v, %v\nwant    %+v", queried, err, want)
	}
}

func TestLinesOfMaps(t *testing.T) {
	for line, want := range map[string]Region{
		"7f00-7f10 rw-s 00001000 00:1a 1234   /dev/shm/plasma a (deleted)":   {0x7f00, 0x7f10, 0x1000, File{unix.Mkdev(0, 0x1a), 1234}, true},
		"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]": {-0xa00000, -0x9ff000, 0, File{}, false},
		"1000-2000 r--p 00000000 103:ffff1 18446744073709551615 ":            {0x1000, 0x2000, 0, File{unix.Mkdev(0x103, 0xffff1), 1<<64 - 1}, false},
	} {
		if got, err := parseLine(line); err != nil || got != want {
			t.Errorf("%s: %+v, %v", line, got, err)
		}
	}
	for _, line := range []string{"", "x", "1-2 rw-s 0 0:0", "1-2 rw 0 0:0 0", "12 rw-s 0 0:0 0", "1-2 rw-s 0 0 0", "1-x rw-s 0 0:0 0"} {
		if got, err := parseLine(line); err == nil {
			t.Errorf("%q: %+v", line, got)
		}
	}
}

// startRaylet starts a process that is called raylet and holds the store's file open, as the only one.
func startRaylet(t *testing.T, s *store) int {
	t.Helper()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip(err)
	}
	binary, err := os.ReadFile(sleep)
	if err != nil {
		t.Skip(err)
	}
	path := filepath.Join(t.TempDir(), "raylet")
	if err := os.WriteFile(path, binary, 0o700); err != nil {
		t.Fatal(err)
	}
	process := exec.Command(path, "60")
	process.ExtraFiles = []*os.File{s.file}
	if err := process.Start(); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		process.Process.Kill()
		process.Wait()
	})
	s.file.Close()
	return process.Process.Pid
}

func TestFileIsFoundInTheRaylet(t *testing.T) {
	for _, hint := range []bool{true, false} {
		t.Run(fmt.Sprintf("hint %v", hint), func(t *testing.T) {
			s := newStore(t, os.Getpagesize())
			pid := startRaylet(t, s)
			raylet := 0
			if hint {
				raylet = pid
			}
			private := mapped(t, s.address, 100, raylet, CopyOnWrite)
			if !bytes.Equal(private, s.memory[:100]) {
				t.Fatal("the mapping has other bytes")
			}
			if path := knownPath(t, s); !strings.HasPrefix(path, fmt.Sprintf("/proc/%d/fd/", pid)) {
				t.Fatalf("found at %q", path)
			}
		})
	}
}

func knownPath(t *testing.T, s *store) string {
	t.Helper()
	region, err := Locate(s.address, 1)
	if err != nil {
		t.Fatal(err)
	}
	found.Lock()
	defer found.Unlock()
	return found.paths[region.File]
}

func TestAKnownPathThatStandsForAnotherFileIsNotUsed(t *testing.T) {
	page := os.Getpagesize()
	s, other := newStore(t, page), newStore(t, page)
	other.memory[0] = 77
	mapped(t, s.address, 10, 0, CopyOnWrite)
	path := knownPath(t, s)

	// another file takes the number of the descriptor, and the file moves to another number
	moved, err := unix.Dup(int(s.file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(moved)
	if err := unix.Dup3(int(other.file.Fd()), int(s.file.Fd()), unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	private := mapped(t, s.address, 10, 0, CopyOnWrite)
	if private[0] != s.memory[0] {
		t.Fatal("mapped another file")
	}
	if now := knownPath(t, s); now == path || now != fmt.Sprintf("/proc/self/fd/%d", moved) {
		t.Fatalf("known at %q, before that at %q", now, path)
	}
}

func TestPrivilegedProcessNeedsNobodyWhoHoldsTheFile(t *testing.T) {
	s := newStore(t, os.Getpagesize())
	s.file.Close()
	copied, err := Map(s.address, 10, 0, CopyOnWrite)
	if errors.Is(err, ErrNoFile) {
		t.Skip("this process may not open /proc/self/map_files")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer copied.Unmap()
	if path := knownPath(t, s); !strings.HasPrefix(path, "/proc/self/map_files/") {
		t.Fatalf("found at %q", path)
	}
}

func TestNoFileSaysWhereItLooked(t *testing.T) {
	_, _, err := openFile(Region{Start: 4096, End: 8192, File: File{Device: 1, Inode: 1 << 60}}, os.Getpid())
	if !errors.Is(err, ErrNoFile) {
		t.Fatal(err)
	}
	for _, place := range []string{descriptors(os.Getpid()) + ": none of", "/proc/self/fd: none of", "/proc/self/map_files/1000-2000"} {
		if !strings.Contains(err.Error(), place) {
			t.Errorf("%q does not name %s", err, place)
		}
	}
}

func TestKnownPathsDoNotAddUp(t *testing.T) {
	for range 2 * maxPaths {
		s := newStore(t, 10)
		unmapped(t, mapping(t, s.address, 10, 0, CopyOnWrite))
	}
	found.Lock()
	defer found.Unlock()
	if len(found.paths) > maxPaths {
		t.Fatalf("%d paths", len(found.paths))
	}
}

func TestMapFromManyGoroutines(t *testing.T) {
	page := int64(os.Getpagesize())
	s := newStore(t, int(4*page))
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for range 50 {
				copied, err := Map(s.address+int64(i), 3*page, 0, CopyOnWrite)
				if err != nil {
					t.Error(err)
					return
				}
				mem.Bytes(copied.Address, 1)[0] = 1
				unmapped(t, copied)
			}
		})
	}
	group.Wait()
}

// The first mapping of a store looks for its file, with as many descriptors around as a raylet has.
func BenchmarkMapFirst(b *testing.B) {
	s := newStore(b, 1<<20)
	for range 200 {
		descriptor, err := unix.Dup(0)
		if err != nil {
			b.Fatal(err)
		}
		defer unix.Close(descriptor)
	}
	for b.Loop() {
		found.Lock()
		clear(found.paths)
		found.Unlock()
		unmapped(b, mapping(b, s.address, 1<<20, os.Getpid(), CopyOnWrite))
	}
}

func BenchmarkMapLater(b *testing.B) {
	s := newStore(b, 1<<20)
	for _, mode := range []Mode{CopyOnWrite, ReadOnly} {
		b.Run(fmt.Sprintf("mode %d", mode), func(b *testing.B) {
			for b.Loop() {
				unmapped(b, mapping(b, s.address, 1<<20, 0, mode))
			}
		})
	}
}

func BenchmarkLocate(b *testing.B) {
	s := newStore(b, 1<<20)
	for b.Loop() {
		if _, err := Locate(s.address, 1<<20); err != nil {
			b.Fatal(err)
		}
	}
}
