package client

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// A batch on the wire: magic and version, the length of the body in 4 bytes, the
// body, and the CRC-32C of all that in 4 bytes. Numbers in the body are varints,
// texts and bytes have their length before them:
//
//	move prefix stream number flags [keys bytes digest] [offer] records{flags key [value expires] [sum bytes]}
//
// Integers outside of the body are big-endian. The CRC is for what a network card
// or a proxy spoils; that the slice is whole and the right one, its manifest shows.
const (
	batchMagic = "SRB\x01" // the last byte is the version
	headLen    = len(batchMagic) + 4
	sumLen     = 4

	flagLast     = 1 << 0 // of a batch
	flagOffer    = 1 << 1 // of a batch: it has an offer
	flagDeleted  = 1 << 0 // of a record
	flagReplaces = 1 << 1 // of a record: its former one's sum and size are told
)

const (
	// MaxValue bounds the value of a record in bytes: one is held in memory whole at
	// both ends. It is also the longest string that Redis takes (proto-max-bulk-len).
	MaxValue = 512 << 20
	// MaxBatchRecords bounds the records of a batch: ten times what is sent, so that
	// a later version may send more.
	MaxBatchRecords = 10 * shipRecords
	// MaxBatchBytes bounds an encoded batch: one record of the largest kind fits, and
	// what belongs to the batch.
	MaxBatchBytes = MaxValue + scope.MaxKeyLen + 64<<10

	// MaxOffer bounds an offer: it is a few numbers and a small value.
	MaxOffer = 64 << 10

	// maxID bounds the ids of a batch, in bytes: registry ids and streams are shorter.
	maxID = 256
	// ownPiece is from where on a value is sent from where it lies: to copy less costs
	// less than one more piece.
	ownPiece = 64 << 10
	// maxDigest bounds the digest of a manifest: what the registry takes.
	maxDigest = 128
	// readStep is what the decoder allocates before anything was read. It doubles
	// with what has come, so that a length alone costs the reader nothing.
	readStep = 64 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func tooLarge(format string, args ...any) error {
	return &api.Error{Code: api.TooLarge, Detail: fmt.Sprintf(format, args...)}
}

func badBatch(format string, args ...any) error {
	return &api.Error{Code: api.Invalid, Detail: fmt.Sprintf(format, args...)}
}

// corrupt is what did not arrive as it was sent. The same again may.
func corrupt(format string, args ...any) error {
	return &api.Error{Code: api.Corrupt, Detail: "a batch " + fmt.Sprintf(format, args...)}
}

// checkRecord refuses a record that no batch can carry.
func checkRecord(r Record) error {
	switch {
	case len(r.Key) > scope.MaxKeyLen:
		return tooLarge("a key of %d bytes that begins with %q; a key that moves has %d at most", len(r.Key), scope.BytesText(string(r.Key[:64])), scope.MaxKeyLen)
	case len(r.Value) > MaxValue:
		return tooLarge("the value of key %q has %d bytes; one that moves has %d at most", keyText(r.Key), len(r.Value), MaxValue)
	case r.Deleted && (len(r.Value) > 0 || r.Expires != 0):
		return badBatch("the deleted key %q has a value or an expiry", keyText(r.Key))
	}
	return nil
}

// keyText is a key as messages show it; a long one is cut.
func keyText(key []byte) string {
	const shown = 128 // a line of a log
	if len(key) > shown {
		return scope.BytesText(string(key[:shown])) + "…"
	}
	return scope.BytesText(string(key))
}

// check refuses what DecodeBatch would refuse, with its reason.
func (b *Batch) check() error {
	switch {
	case b.Move == "" || len(b.Move) > maxID:
		return badBatch("a batch of move %.64q; an id has 1 to %d bytes", b.Move, maxID)
	case b.Stream == "" || len(b.Stream) > maxID:
		return badBatch("a batch of stream %.64q; an id has 1 to %d bytes", b.Stream, maxID)
	case len(b.Prefix) > scope.MaxPrefixLen:
		return badBatch("a batch of a prefix of %d bytes; one has %d at most", len(b.Prefix), scope.MaxPrefixLen)
	case len(b.Sum.Digest) > maxDigest:
		return badBatch("a batch with a digest of %d bytes; one has %d at most", len(b.Sum.Digest), maxDigest)
	case !b.Last && b.Sum != Manifest{}:
		return badBatch("a batch with a manifest that is not the last one of its stream")
	case len(b.Offer) > MaxOffer:
		return tooLarge("an offer of %d bytes; one has %d at most", len(b.Offer), MaxOffer)
	case len(b.Offer) > 0 && (b.Number > 0 || b.Last || len(b.Records) > 0):
		return badBatch("an offer that is not alone in the first batch of its stream")
	case len(b.Records) > MaxBatchRecords:
		return tooLarge("a batch of %d records; one has %d at most", len(b.Records), MaxBatchRecords)
	}
	for _, r := range b.Records {
		if err := checkRecord(r); err != nil {
			return err
		}
	}
	return nil
}

// Encode writes the batch in the form that [DecodeBatch] reads. Nothing is
// written if it is beyond the bounds: TOO_LARGE or INVALID.
func (b *Batch) Encode(w io.Writer) error {
	data, err := b.encoded()
	if err != nil {
		return err
	}
	for _, piece := range data {
		if _, err := w.Write(piece); err != nil {
			return err
		}
	}
	return nil
}

// encoded is the batch on the wire, in pieces. Long values are pieces of their own,
// in the memory of their records.
func (b *Batch) encoded() ([][]byte, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	short := b.weight()
	for _, r := range b.Records {
		if len(r.Value) >= ownPiece {
			short -= len(r.Value)
		}
	}
	out := make([]byte, headLen, headLen+short+sumLen)
	copy(out, batchMagic)
	out = putText(out, b.Move)
	out = putText(out, string(b.Prefix))
	out = putText(out, b.Stream)
	out = binary.AppendUvarint(out, b.Number)
	switch {
	case b.Last:
		out = append(out, flagLast)
		out = binary.AppendUvarint(out, b.Sum.Keys)
		out = binary.AppendUvarint(out, b.Sum.Bytes)
		out = putText(out, b.Sum.Digest)
	case len(b.Offer) > 0:
		out = putText(append(out, flagOffer), b.Offer)
	default:
		out = append(out, 0)
	}
	out = binary.AppendUvarint(out, uint64(len(b.Records)))
	var pieces [][]byte
	size := 0
	for i := range b.Records {
		r := &b.Records[i]
		if out = r.encodeKey(out); !r.Deleted {
			out = binary.AppendUvarint(out, uint64(len(r.Value)))
			if len(r.Value) < ownPiece {
				out = append(out, r.Value...)
			} else {
				pieces, size = append(pieces, out, r.Value), size+len(out)+len(r.Value)
				out = out[len(out):]
			}
		}
		out = r.encodeRest(out)
	}
	if size += len(out); size+sumLen > MaxBatchBytes {
		return nil, tooLarge("a batch of %d bytes; one has %d at most", size+sumLen, MaxBatchBytes)
	}
	pieces = append(pieces, out)
	binary.BigEndian.PutUint32(pieces[0][len(batchMagic):], uint32(size-headLen))
	var sum uint32
	for _, piece := range pieces {
		sum = crc32.Update(sum, castagnoli, piece)
	}
	pieces[len(pieces)-1] = binary.BigEndian.AppendUint32(out, sum)
	return pieces, nil
}

// encodeKey writes what comes before a value, encodeRest what comes after it.
func (r *Record) encodeKey(out []byte) []byte {
	var flags byte
	if r.Deleted {
		flags |= flagDeleted
	}
	if r.was != nil {
		flags |= flagReplaces
	}
	return putText(append(out, flags), r.Key)
}

func (r *Record) encodeRest(out []byte) []byte {
	if !r.Deleted {
		out = binary.AppendVarint(out, r.Expires)
	}
	if r.was != nil {
		out = append(out, r.was.sum[:]...)
		out = binary.AppendUvarint(out, r.was.bytes)
	}
	return out
}

func putText[T ~string | ~[]byte](out []byte, text T) []byte {
	return append(binary.AppendUvarint(out, uint64(len(text))), text...)
}

// weight is about what the body takes, and not less.
func (b *Batch) weight() int {
	n := len(b.Move) + len(b.Prefix) + len(b.Stream) + len(b.Sum.Digest) + len(b.Offer) + 9*binary.MaxVarintLen64
	for _, r := range b.Records {
		n += recordCost + len(r.Key) + len(r.Value)
		if r.was != nil {
			n += formerCost
		}
	}
	return n
}

// recordCost is what a record takes on the wire besides its key and value: flags,
// two lengths and the expiry, at most.
const recordCost = 1 + 3 + 5 + binary.MaxVarintLen64

// formerCost is what is added by what it replaces.
const formerCost = len(recordSum{}) + binary.MaxVarintLen64

// DecodeBatch reads one batch, and nothing after it. The records lie in memory of
// the batch's own. An error is an [*Error]: CORRUPT if it did not arrive as it was
// sent, TOO_LARGE if it is beyond the bounds, INVALID if it is none or of a version
// that this one does not know; one of r is wrapped as it is.
func DecodeBatch(r io.Reader) (*Batch, error) {
	return decodeBatch(r, -1, func(string) (bool, error) { return false, nil })
}

// decodeBatch is DecodeBatch for somebody who knows how many bytes come, or -1, and by the move whether the batch may come:
// admit is asked once its first bytes are there, 64 KiB at most. No more is allocated than twice what has come, unless admit
// says that there is room for all of it; then that, at once.
func decodeBatch(r io.Reader, size int64, admit func(move string) (room bool, err error)) (*Batch, error) {
	var head [headLen]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, cutOff(err)
	}
	switch magic := string(head[:len(batchMagic)]); {
	case magic[:3] != batchMagic[:3]:
		return nil, badBatch("what came is no batch of records: it begins with %q", magic)
	case magic != batchMagic:
		return nil, badBatch("a batch of version %d came, and this node reads only version %d; update it first", magic[3], batchMagic[3])
	}
	n := int64(binary.BigEndian.Uint32(head[len(batchMagic):]))
	if n > MaxBatchBytes-int64(headLen+sumLen) {
		return nil, tooLarge("a batch of %d bytes; one has %d at most", n, MaxBatchBytes)
	}
	if own := n + int64(headLen+sumLen); size >= 0 && own != size { // the room that admit knows of is for size
		return nil, corrupt("of %d bytes came as %d bytes", own, size)
	}
	body, err := readBody(r, int(n)+sumLen, admit)
	if err != nil {
		return nil, err
	}
	body, tail := body[:n:n], body[n:]
	if crc32.Update(crc32.Checksum(head[:], castagnoli), castagnoli, body) != binary.BigEndian.Uint32(tail) {
		return nil, corrupt("of %d bytes has another checksum than it was sent with", n)
	}
	p := &parser{left: body}
	b := p.batch()
	switch {
	case p.failed != "":
		return nil, corrupt("cannot be read: %s", p.failed)
	case len(p.left) > 0:
		return nil, corrupt("has %d bytes too many", len(p.left))
	}
	if err := b.check(); err != nil {
		return nil, err
	}
	return b, nil
}

func cutOff(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return corrupt("ends too early")
	}
	return fmt.Errorf("a batch cannot be read: %w", err)
}

// readBody reads n bytes.
func readBody(r io.Reader, n int, admit func(move string) (room bool, err error)) ([]byte, error) {
	out := make([]byte, 0, min(n, readStep))
	room := false
	for len(out) < n {
		if len(out) == cap(out) {
			more := len(out)
			if room {
				more = n
			}
			out = slices.Grow(out, min(n-len(out), more))
		}
		upto := min(n, cap(out))
		got, err := io.ReadFull(r, out[len(out):upto])
		out = out[:len(out)+got]
		if err != nil {
			return nil, cutOff(err)
		}
		if len(out) <= readStep {
			if room, err = admit(string((&parser{left: out}).bytes())); err != nil { // a move that is cut off is none
				return nil, err
			}
		}
	}
	return out, nil
}

// parser takes a body apart. After the first failure it gives zeros.
type parser struct {
	left   []byte
	failed string
}

func (p *parser) fail(why string) {
	if p.failed == "" {
		p.failed = why
	}
	p.left = nil
}

func (p *parser) number() uint64 {
	v, n := binary.Uvarint(p.left)
	if n <= 0 {
		p.fail("a number is cut off or too large")
		return 0
	}
	p.left = p.left[n:]
	return v
}

func (p *parser) signed() int64 {
	v, n := binary.Varint(p.left)
	if n <= 0 {
		p.fail("a number is cut off or too large")
		return 0
	}
	p.left = p.left[n:]
	return v
}

// bytes lie where the body does: an append to them copies.
func (p *parser) bytes() []byte {
	n := p.number()
	if n > uint64(len(p.left)) {
		p.fail("a length goes beyond the end")
		return nil
	}
	out := p.left[:n:n]
	p.left = p.left[n:]
	return out
}

func (p *parser) sum() (s recordSum) {
	if len(p.left) < len(s) {
		p.fail("a sum is cut off")
		return s
	}
	p.left = p.left[copy(s[:], p.left):]
	return s
}

// flags are a byte in which bits that this version does not know are a failure:
// they would change what the rest means.
func (p *parser) flags(known byte) byte {
	if len(p.left) == 0 || p.left[0]&^known != 0 {
		p.fail("flags are missing or unknown")
		return 0
	}
	f := p.left[0]
	p.left = p.left[1:]
	return f
}

func (p *parser) batch() *Batch {
	b := &Batch{}
	b.Move, b.Prefix, b.Stream = string(p.bytes()), scope.Prefix(p.bytes()), string(p.bytes())
	b.Number = p.number()
	flags := p.flags(flagLast | flagOffer)
	if b.Last = flags&flagLast != 0; b.Last {
		b.Sum.Keys, b.Sum.Bytes, b.Sum.Digest = p.number(), p.number(), string(p.bytes())
	}
	if flags&flagOffer != 0 {
		b.Offer = p.bytes()
	}
	n := p.number()
	if n > MaxBatchRecords {
		p.fail("it has too many records")
	}
	for range n {
		flags := p.flags(flagDeleted | flagReplaces)
		r := Record{Deleted: flags&flagDeleted != 0}
		if r.Key = p.bytes(); !r.Deleted {
			r.Value, r.Expires = p.bytes(), p.signed()
		}
		if flags&flagReplaces != 0 {
			r.was = &former{p.sum(), p.number()}
		}
		if p.failed != "" {
			break
		}
		b.Records = append(b.Records, r) // not made for n at once: that is only said
	}
	return b
}
