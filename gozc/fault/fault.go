// Package fault says on stderr, when a write to memory that this process may only read ends it, why that is so.
package fault
