package link

import (
	"encoding/binary"
	"errors"
	"io"
)

// The first message between two servers, see package transport/peer: eight bytes, of which the last two say how long the
// rest is, and in the rest first the name of who dials, after its length in two bytes.
const (
	headSize = 8
	maxRest  = 4 << 10
)

var errNoServer = errors.New("whoever dials is no server of the registry")

// Server reads which server dials.
func Server(r io.Reader) (name string, read []byte, err error) {
	read = make([]byte, headSize)
	if _, err := io.ReadFull(r, read); err != nil {
		return "", nil, err
	}
	size := int(binary.BigEndian.Uint16(read[headSize-2:]))
	if string(read[:4]) != "scrg" || size < 2 || size > maxRest {
		return "", nil, errNoServer
	}
	rest := make([]byte, size)
	if _, err := io.ReadFull(r, rest); err != nil {
		return "", nil, err
	}
	n := int(binary.BigEndian.Uint16(rest))
	if 2+n > size {
		return "", nil, errNoServer
	}
	return string(rest[2 : 2+n]), append(read, rest...), nil
}
