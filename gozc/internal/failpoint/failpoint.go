// Package failpoint makes system calls fail on purpose, for tests: each passes a named place first, which says whether
// it is to fail. When no test has asked for that, a place costs the load of one pointer.
package failpoint

import (
	"sync/atomic"
	"syscall"
)

type rule struct {
	place  string
	number int64
	errno  syscall.Errno
	seen   atomic.Int64
}

var active atomic.Pointer[rule]

// Set has the call with this number (from 1; 0: every call) at a place ("": at any) fail with an error number of the
// system. An error number of 0 ends that. It returns how many calls have passed since the last Set.
func Set(place string, number int64, errno syscall.Errno) int64 {
	var next *rule
	if errno != 0 {
		next = &rule{place: place, number: number, errno: errno}
	}
	last := active.Swap(next)
	if last == nil {
		return 0
	}
	return last.seen.Load()
}

// At returns the error with which a call at a place is to fail, or nil.
func At(place string) error {
	r := active.Load()
	if r == nil || (r.place != "" && r.place != place) {
		return nil
	}
	if n := r.seen.Add(1); r.number != 0 && r.number != n {
		return nil
	}
	return r.errno
}
