package slices

import "encoding/binary"

// The last bytes of what DUMP gives: the version of the format, little-endian, and a checksum.
const footer = 2 + 8

// stringCost is what a dump has at most beyond the bytes of its string: the type, the mark of a compressed one, two lengths of
// five bytes each, as those up to 4 GiB have, and the footer; but for the four bytes that compression saves at least. One that is
// not compressed has the type, one length and the footer.
const stringCost = 1 + 1 + 2*5 + footer - 4

// formatOf is the version of the format of a payload; 0 is none.
func formatOf(payload []byte) uint16 {
	if len(payload) <= footer {
		return 0
	}
	return binary.LittleEndian.Uint16(payload[len(payload)-footer:])
}

// kindOf is what TYPE says of the value in a payload, whose first byte tells its encoding; "" if that is not known here.
func kindOf(encoding byte) string {
	switch encoding {
	case 0:
		return "string"
	case 1, 10, 14, 18: // plain, ziplist, quicklists
		return "list"
	case 2, 11, 20: // plain, intset, listpack
		return "set"
	case 3, 5, 12, 17: // plain, with binary scores, ziplist, listpack
		return "zset"
	case 4, 9, 13, 16, 22, 23, 24, 25: // plain, zipmap, ziplist, listpack; with times of fields
		return "hash"
	case 15, 19, 21:
		return "stream"
	}
	return ""
}

// told reports whether the store tells of every change of such a value. It does not of what consumer groups do to a stream
// (XREADGROUP, XACK, XCLAIM and XGROUP signal no change of the key), and perhaps not of a field that expires, nor of what a
// module does.
func told(encoding byte) bool {
	switch kindOf(encoding) {
	case "string", "list", "set", "zset":
		return true
	case "hash":
		return encoding < 22
	}
	return false
}
