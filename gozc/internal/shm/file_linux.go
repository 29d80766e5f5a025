package shm

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/mem"
)

// found holds the path in /proc at which a file was opened the last time. The path can stand for another file
// by now, so it is checked whenever it is used. A path, and not a descriptor: see Map.
var found = struct {
	sync.Mutex
	paths map[File]string
}{paths: make(map[File]string)}

// Objects that overflow to disk have a file each, so the paths add up in a process that runs for long.
const maxPaths = 64

// openFile opens the file behind a region for reading: it has no name any more, but whoever holds it open has
// an entry in /proc, which can be opened by every process of the same user. It returns the descriptor, which is the
// caller's to close, and the path.
//
// Nothing here goes through the package os: that would start Go's poller with the first file, which ends the process
// where there are no descriptors left for it.
func openFile(region Region, raylet int) (int, string, error) {
	found.Lock()
	path := found.paths[region.File]
	found.Unlock()
	if path != "" {
		if descriptor, err := openSame(path, region.File); err == nil {
			return descriptor, path, nil
		}
	}
	descriptor, path, err := searchFile(region, raylet)
	if err != nil {
		return 0, "", err
	}
	found.Lock()
	defer found.Unlock()
	if len(found.paths) >= maxPaths {
		clear(found.paths)
	}
	found.paths[region.File] = path
	return descriptor, path, nil
}

func searchFile(region Region, raylet int) (int, string, error) {
	var tried []error
	for folder := range folders(raylet) {
		descriptor, path, err := searchFolder(folder, region.File)
		if err == nil {
			return descriptor, path, nil
		}
		tried = append(tried, err)
	}
	path := fmt.Sprintf("/proc/self/map_files/%x-%x", region.Start, region.End) // needs a capability
	descriptor, err := openSame(path, region.File)
	if err == nil {
		return descriptor, path, nil
	}
	tried = append(tried, err)
	for _, err := range tried {
		if errors.Is(err, ErrScarce) { // it may well be there
			return 0, "", err
		}
	}
	texts := make([]string, len(tried))
	for i, err := range tried {
		texts[i] = err.Error()
	}
	return 0, "", fmt.Errorf("%w: device %#x, inode %d; %s",
		ErrNoFile, region.File.Device, region.File.Inode, strings.Join(texts, "; "))
}

// folders yields where to look: the descriptors of the raylet that is given, of all others, of this process.
func folders(raylet int) iter.Seq[string] {
	return func(yield func(string) bool) {
		if raylet > 0 && !yield(descriptors(raylet)) {
			return
		}
		for _, pid := range raylets() {
			if pid != raylet && !yield(descriptors(pid)) {
				return
			}
		}
		yield("/proc/self/fd")
	}
}

// searchFolder opens the first entry of a folder of descriptors that is the file.
func searchFolder(folder string, want File) (int, string, error) {
	names, err := namesIn(folder)
	if err != nil {
		return 0, "", err
	}
	err = fmt.Errorf("%s: none of %d descriptors", folder, len(names))
	var others []string
	for _, name := range names {
		path := folder + "/" + name
		var stat unix.Stat_t
		if unix.Stat(path, &stat) != nil || stat.Mode&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		if statAs(&stat) != want {
			others = append(others, path)
			continue
		}
		var descriptor int
		if descriptor, err = openSame(path, want); err == nil {
			return descriptor, path, nil
		}
	}
	for _, path := range others { // a raylet has a few
		descriptor, failed := openSame(path, want)
		if failed == nil {
			return descriptor, path, nil
		}
		if errors.Is(failed, ErrScarce) {
			err = failed
		}
	}
	return 0, "", err
}

// openSame opens a path and makes sure that it is the file: descriptors are closed and their numbers used again.
func openSame(path string, want File) (int, error) {
	descriptor, err := openPath(path, unix.O_RDONLY)
	if err != nil {
		return 0, err
	}
	got, err := fstatAs(descriptor)
	if err == nil && got != want {
		got, err = mappedAs(descriptor)
	}
	if err == nil && got == want {
		return descriptor, nil
	}
	unix.Close(descriptor)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return 0, fmt.Errorf("%s: device %#x, inode %d", path, got.Device, got.Inode)
}

// fstatAs gives what stat says of an open file.
func fstatAs(descriptor int) (File, error) {
	var stat unix.Stat_t
	if err := fstat(descriptor, &stat); err != nil {
		return File{}, fmt.Errorf("fstat: %w", scarce(err))
	}
	return statAs(&stat), nil
}

var statAs = func(stat *unix.Stat_t) File { // a test has it name another device
	return File{Device: uint64(stat.Dev), Inode: stat.Ino}
}

// mappedAs gives what the list of mappings says of an open file. On btrfs, and on overlayfs before Linux 6.8, that is
// another device, or inode, than what stat says.
func mappedAs(descriptor int) (File, error) {
	mapped, err := unix.Mmap(descriptor, 0, 1, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return File{}, fmt.Errorf("map a page: %w", scarce(err))
	}
	defer unix.Munmap(mapped)
	region, err := Locate(mem.Address(mapped), 1)
	return region.File, err
}

func descriptors(pid int) string {
	return "/proc/" + strconv.Itoa(pid) + "/fd"
}

// raylets returns the processes that are called raylet, those with the highest numbers first: as a rule the newest.
func raylets() []int {
	names, err := namesIn("/proc")
	if err != nil {
		return nil // the search fails further on, and says where it looked
	}
	var pids []int
	for _, entry := range names {
		pid, err := strconv.Atoi(entry)
		if err != nil {
			continue
		}
		name, err := readAll("/proc/" + entry + "/comm")
		if err == nil && string(name) == "raylet\n" {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	slices.Reverse(pids)
	return pids
}
