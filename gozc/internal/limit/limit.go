// Package limit leaves the process's limit of open files as it was. Importing it does that.
//
// Go's package syscall raises the soft limit to the hard one when it is initialized. That suits Go programs, but the
// limit belongs to the Python process around this library, and its child processes inherit it: programs that use
// select, or that close every descriptor there may be, are slow or wrong with a high one. Go keeps what it has found
// to itself, so limit_linux.c notes the limit when the library is loaded, before the Go runtime starts.
package limit
