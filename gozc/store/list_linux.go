package store

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// List finds the images in the stores of this machine's raylets, the newest raylet first.
func List() ([]*Entry, error) {
	pids := raylets()
	if len(pids) == 0 {
		return nil, fmt.Errorf("%w: there is no raylet on this machine, or /proc hides it", ErrNoStore)
	}
	var entries []*Entry
	var failed error
	read := false
	for _, pid := range pids {
		heaps, err := heapsOf(pid)
		if err != nil {
			failed = err
			continue
		}
		for _, heap := range heaps {
			if err := heap.read(pid); err != nil { // the file of an object that has overflowed to disk, for example
				failed = err
				continue
			}
			read = true
			entries = append(entries, heap.entries...)
		}
	}
	if !read && failed != nil {
		return nil, failed
	}
	if !read {
		return nil, fmt.Errorf("%w: none of %d raylets has a file that looks like one", ErrNoStore, len(pids))
	}
	return entries, nil
}

// raylets returns the processes that are called raylet, those with the highest numbers first: as a rule the newest.
//
// Package shm has the like for processes that must not start Go's poller, or may have no descriptor left.
func raylets() []int {
	names, _ := filepath.Glob("/proc/[0-9]*/comm")
	var pids []int
	for _, name := range names {
		if comm, err := os.ReadFile(name); err == nil && string(comm) == "raylet\n" {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	slices.Reverse(pids)
	return pids
}

// heapsOf returns the files that a raylet has open, and that no name leads to any more.
func heapsOf(raylet int) ([]*heap, error) {
	folder := fmt.Sprintf("/proc/%d/fd", raylet)
	descriptors, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("%w: %w (run as the raylet's user, in its PID namespace)", ErrNoStore, err)
	}
	var heaps []*heap
	for _, descriptor := range descriptors {
		path := filepath.Join(folder, descriptor.Name())
		target, err := os.Readlink(path)
		if err != nil || !strings.HasPrefix(filepath.Base(target), "plasma") {
			continue
		}
		about, err := os.Stat(path)
		same := func(other *heap) bool { return os.SameFile(other.about, about) }
		if err == nil && about.Mode().IsRegular() && !slices.ContainsFunc(heaps, same) {
			heaps = append(heaps, &heap{path: path, about: about})
		}
	}
	return heaps, nil
}
