//go:build gotorch

package torch

// #include "cpp/operations.h"
import "C"

import (
	"runtime"
	"sync"
)

// SetThreads sets on how many threads, at least one, each model of this process computes from its next call on. Without it,
// they are half of the processors, or what OMP_NUM_THREADS says.
func SetThreads(n int) { C.gozc_set_threads(C.int32_t(max(1, min(n, 1<<15)))) }

// A thread is one of the system's, on which a model's calls run: libtorch has a set of threads, and a cache of memory, for
// each that it was ever called from, and Go would call it from any.
type thread struct {
	calls  chan func()
	use    sync.RWMutex
	closed bool
}

func newThread() *thread {
	t := &thread{calls: make(chan func())}
	go func() {
		runtime.LockOSThread() // for good: the thread ends with this goroutine, and libtorch's threads with it
		for call := range t.calls {
			call()
		}
	}()
	return t
}

// do runs a call on the thread, and returns what it returns. It panics as the call does.
func (t *thread) do(call func() error) error {
	t.use.RLock()
	defer t.use.RUnlock()
	if t.closed {
		return ErrClosed
	}
	var err error
	var panicked any
	done := make(chan struct{})
	t.calls <- func() {
		defer close(done)
		defer func() { panicked = recover() }()
		err = call()
	}
	<-done
	if panicked != nil {
		panic(panicked)
	}
	return err
}

// close waits for the calls that have begun, and ends the thread after a last one.
func (t *thread) close(last func()) {
	t.use.Lock()
	defer t.use.Unlock()
	if t.closed {
		return
	}
	t.closed = true
	t.calls <- last
	close(t.calls)
}
