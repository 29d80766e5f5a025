// Package fault says on stderr why memory ends this process: a write where it may only read, a file that was cut short.
package fault
