package shm

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/mem"
)

// chunk is what a goroutine works on at a time: a few milliseconds of work, so that starting one does not count, and
// several finish at about the same time.
const chunk = 64 << 20

// Prefault fills the page tables for the length bytes at address, so that the first use of them does not have to.
func Prefault(address, length int64) error {
	if length == 0 {
		return nil
	}
	start, end := pages(address, length)
	return inChunks("prefault", start, end, populate)
}

// inChunks does something to all memory from start to end, on several goroutines where that pays. what names it in
// errors.
func inChunks(what string, start, end int64, do func(address, length int64) error) error {
	chunks := (end - start + chunk - 1) / chunk
	workers := min(chunks, int64(runtime.GOMAXPROCS(0)))
	errs := make([]error, workers)
	var next atomic.Int64
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					errs[i] = fmt.Errorf("%s %d bytes at %#x: %v", what, end-start, start, p)
				}
			}()
			for errs[i] == nil {
				from := start + (next.Add(1)-1)*chunk
				if from >= end {
					return
				}
				errs[i] = do(from, min(chunk, end-from))
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func populate(address, length int64) error {
	memory := mem.Bytes(address, length)
	err := madvise(memory, unix.MADV_POPULATE_READ)
	if err == unix.EINVAL { // before Linux 5.14
		touch(memory)
		return nil
	}
	if err != nil {
		return fmt.Errorf("populate %d bytes at %#x: %w", length, address, err)
	}
	return nil
}

// touched keeps the compiler from leaving out the reads of touch.
var touched atomic.Int64

// touch reads a byte of every page. A page that is not there is a panic and not the end of the process.
func touch(memory []byte) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	var sum int64
	for at := 0; at < len(memory); at += os.Getpagesize() {
		sum += int64(memory[at])
	}
	touched.Store(sum)
}
