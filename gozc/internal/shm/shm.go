// Package shm maps shared memory of this process a second time, privately: what is written there stays in this
// process, what is not written stays shared.
//
// What it does not promise: the new mapping does not keep the content alive. The bytes are those of the file,
// and whoever owns the file (Ray's object store) may write something else there once it believes that nobody
// reads them any more. So the caller keeps its own claim on the object as long as the mapping is in use.
package shm

// Mode says what a new mapping is good for.
type Mode int64

const (
	// CopyOnWrite makes a mapping that can be written; each page is copied for this process when it is first
	// written to.
	CopyOnWrite Mode = 1

	// ReadOnly makes a mapping in which a write ends the process. It needs no access to the file.
	ReadOnly Mode = 2
)

// A Region is a mapping of this process.
type Region struct {
	Start  int64
	End    int64
	Offset int64 // of Start in the file
	File   File
	Shared bool
}

// A File identifies a file that is mapped. Inode numbers repeat across devices, so it takes both.
type File struct {
	Device uint64
	Inode  uint64 // 0 for memory without a file
}

// A Mapping is what Map has made, and belongs to whoever called it. Of its copies, one is unmapped, and once.
type Mapping struct {
	Address int64 // of the bytes that were asked for
	Base    int64 // of the whole pages around them
	Length  int64 // of those pages
	Mode    Mode
}
