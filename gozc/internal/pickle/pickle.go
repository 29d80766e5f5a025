// Package pickle walks through Python pickles without unpickling them.
package pickle

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrDamaged is returned for bytes that are no pickle of protocol 5.
var ErrDamaged = errors.New("the pickle is damaged")

// An argument says what follows an opcode.
type argument int8

const (
	unknown argument = 0
	nothing argument = -10
	// Others: so many bytes (1 to 8), or, negative, a length of so many bytes and what it counts.
)

// The opcodes of pickletools but for those whose argument ends with a line: protocol 5 does not write them.
var arguments = [256]argument{
	'(': nothing, '.': nothing, '0': nothing, '1': nothing, '2': nothing, 'N': nothing, 'Q': nothing, 'R': nothing,
	'a': nothing, 'b': nothing, 'd': nothing, '}': nothing, 'e': nothing, 'l': nothing, ']': nothing, 'o': nothing,
	's': nothing, 't': nothing, ')': nothing, 'u': nothing,
	0x81: nothing, 0x85: nothing, 0x86: nothing, 0x87: nothing, 0x88: nothing, 0x89: nothing, 0x8f: nothing,
	0x90: nothing, 0x91: nothing, 0x92: nothing, 0x93: nothing, memoize: nothing, nextBuffer: nothing, 0x98: nothing,
	'G': 8, 'J': 4, 'K': 1, 'M': 2, 'h': 1, 'j': 4, binPut: 1, longBinPut: 4,
	0x80: 1, 0x82: 1, 0x83: 2, 0x84: 4, frame: 8,
	'T': -4, 'U': -1, 'X': -4, 0x8c: -1, 0x8d: -8, 'B': -4, 'C': -1, 0x8e: -8, 0x96: -8, 0x8a: -1, 0x8b: -4,
}

const (
	stop       = '.'
	binPut     = 'q'
	longBinPut = 'r'
	memoize    = 0x94
	frame      = 0x95
	nextBuffer = 0x97
)

// Check walks through a pickle and returns how many out-of-band buffers it asks for.
//
// What it accepts makes Python's unpickler allocate no more than a few times its length by itself: Python believes the
// numbers that it finds there, the length of a byte array and the number of an entry of its memo.
func Check(data []byte) (buffers int, err error) {
	var memo uint64
	for at := 0; at < len(data); {
		opcode, start := data[at], at
		at++
		kind := arguments[opcode]
		if kind == unknown {
			return 0, fmt.Errorf("%w: byte %d is %#02x, which is no opcode of protocol 5", ErrDamaged, start, opcode)
		}
		var number uint64
		if kind != nothing {
			width := int(kind)
			if kind < 0 {
				width = -width
			}
			if width > len(data)-at {
				return 0, fmt.Errorf("%w: opcode %#02x at %d is cut off", ErrDamaged, opcode, start)
			}
			var wide [8]byte
			copy(wide[:], data[at:at+width])
			number = binary.LittleEndian.Uint64(wide[:])
			at += width
			if kind < 0 || opcode == frame {
				if number > uint64(len(data)-at) {
					return 0, fmt.Errorf("%w: opcode %#02x at %d counts %d bytes, where %d are left",
						ErrDamaged, opcode, start, number, len(data)-at)
				}
			}
			if kind < 0 {
				at += int(number)
			}
		}
		switch opcode {
		case stop:
			if at != len(data) {
				return 0, fmt.Errorf("%w: it ends at %d of %d bytes", ErrDamaged, at, len(data))
			}
			return buffers, nil
		case binPut, longBinPut:
			if number > memo {
				return 0, fmt.Errorf("%w: entry %d of the memo at %d, where %d are", ErrDamaged, number, start, memo)
			}
			memo++
		case memoize:
			memo++
		case nextBuffer:
			buffers++
		}
	}
	return 0, fmt.Errorf("%w: it does not end", ErrDamaged)
}
