package shm

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
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
// an entry in /proc, which can be opened by every process of the same user.
func openFile(region Region, raylet int) (*os.File, error) {
	found.Lock()
	path := found.paths[region.File]
	found.Unlock()
	if path != "" {
		if file, err := openSame(path, region.File); err == nil {
			return file, nil
		}
	}
	file, err := searchFile(region, raylet)
	if err != nil {
		return nil, err
	}
	found.Lock()
	defer found.Unlock()
	if len(found.paths) >= maxPaths {
		clear(found.paths)
	}
	found.paths[region.File] = file.Name()
	return file, nil
}

func searchFile(region Region, raylet int) (*os.File, error) {
	var tried []string
	attempt := func(folder string) *os.File {
		file, err := searchFolder(folder, region.File)
		if err != nil {
			tried = append(tried, err.Error())
		}
		return file
	}
	if raylet > 0 {
		if file := attempt(descriptors(raylet)); file != nil {
			return file, nil
		}
	}
	for _, pid := range raylets() {
		if pid == raylet {
			continue
		}
		if file := attempt(descriptors(pid)); file != nil {
			return file, nil
		}
	}
	if file := attempt("/proc/self/fd"); file != nil {
		return file, nil
	}
	path := fmt.Sprintf("/proc/self/map_files/%x-%x", region.Start, region.End) // needs a capability
	file, err := openSame(path, region.File)
	if err != nil {
		tried = append(tried, err.Error())
		return nil, fmt.Errorf("%w: device %#x, inode %d; %s",
			ErrNoFile, region.File.Device, region.File.Inode, strings.Join(tried, "; "))
	}
	return file, nil
}

// searchFolder opens the first entry of a folder of descriptors that is the file.
func searchFolder(folder string, want File) (*os.File, error) {
	directory, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	defer directory.Close()
	names, err := directory.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	err = fmt.Errorf("%s: none of %d descriptors", folder, len(names))
	for _, name := range names {
		path := folder + "/" + name
		var stat unix.Stat_t
		if unix.Stat(path, &stat) != nil || fileOf(&stat) != want {
			continue
		}
		var file *os.File
		if file, err = openSame(path, want); err == nil {
			return file, nil
		}
	}
	return nil, err
}

// openSame opens a path and makes sure that it is the file: descriptors are closed and their numbers used again.
func openSame(path string, want File) (*os.File, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		file.Close()
		return nil, &os.PathError{Op: "fstat", Path: path, Err: err}
	}
	if got := fileOf(&stat); got != want {
		file.Close()
		return nil, fmt.Errorf("%s: device %#x, inode %d", path, got.Device, got.Inode)
	}
	return file, nil
}

func fileOf(stat *unix.Stat_t) File {
	return File{Device: uint64(stat.Dev), Inode: stat.Ino}
}

func descriptors(pid int) string {
	return "/proc/" + strconv.Itoa(pid) + "/fd"
}

// raylets returns the processes that are called raylet, those with the highest numbers first: as a rule the newest.
func raylets() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil // the search fails further on, and says where it looked
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		name, err := os.ReadFile("/proc/" + entry.Name() + "/comm")
		if err == nil && string(name) == "raylet\n" {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	slices.Reverse(pids)
	return pids
}
