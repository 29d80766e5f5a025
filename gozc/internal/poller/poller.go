// Package poller has Go's runtime open its poller early. Importing it does that.
//
// The runtime opens it (two descriptors, which stay) with its first timer, and has timers of its own: the goroutine that
// gives memory back to the system sets one when it comes to it. Where the process has no descriptors left by then,
// the runtime ends it, which nothing can recover from. Python sees to it that there are some when this is imported.
package poller

import "time"

func init() {
	time.AfterFunc(time.Hour, func() {}).Stop()
}
