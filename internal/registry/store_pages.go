package registry

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// Layout of bolt's pages, in the byte order of the machine: a header of id (u64), flags (u16), count (u16) and overflow
// (u32); count elements of 16 bytes; then the keys and values of all elements, one after the other without a gap.
// An element of a leaf is flags, position, key size, value size (u32 each), one of a branch is position, key size (u32
// each) and page (u64). A position counts from the element itself.
const (
	boltPageHeader = 16
	boltElement    = 16
	boltBranch     = 1
	boltLeaf       = 2
	boltMetaFlag   = 4
	boltIsBucket   = 1
	// boltBucketHeader is root page and sequence (u64 each) before a bucket that is kept inside of its parent's value.
	boltBucketHeader = 16

	// maxBoltDepth bounds the levels of a tree: with two children a page it is more than a file can hold.
	maxBoltDepth = 64

	// maxBoltRun bounds the bytes of one page with its overflow: a leaf holds few of the largest entries of 1 MiB.
	maxBoltRun = 256 << 20
)

// boltTree reads a bolt file by itself and wants every page that is in use to be exactly as bolt writes it. bolt's pages
// have no checksum, and a header that is off by one hides records without a trace; but what bolt writes has one form
// only, so that each field of a header follows from others. It never trusts a number that it read.
type boltTree struct {
	file io.ReaderAt
	meta boltMeta
	seen map[uint64]bool
	// visit gets each bucket, with a nil key, and each of its records.
	visit func(bucket string, key, val []byte) error
	// live gets the ranges of the file that are in use; nil is nobody.
	live func(from, to int64)
}

// pageError is what is wrong with a page. It becomes part of a [CorruptError].
type pageError struct {
	page   uint64
	detail string
}

func (e *pageError) Error() string { return fmt.Sprintf("page %d: %s", e.page, e.detail) }

func badPage(page uint64, format string, args ...any) error {
	return &pageError{page, fmt.Sprintf(format, args...)}
}

// walk visits all records of the tree that the newest meta page roots.
func (t *boltTree) walk() error {
	t.seen = map[uint64]bool{}
	return t.page(t.meta.root, "", nil, 0)
}

// boltPage is a page in memory.
type boltPage struct {
	id    uint64
	flags uint16
	count int
	body  []byte // the whole page with its header
	end   int    // of its elements, where the first key begins
}

// page visits one page. first is the key that its parent has for it, nil for a root.
func (t *boltTree) page(id uint64, bucket string, first []byte, depth int) error {
	if depth > maxBoltDepth {
		return badPage(id, "the tree above it is deeper than %d pages", maxBoltDepth)
	}
	p, err := t.read(id)
	if err != nil {
		return err
	}
	from := int64(id) * t.meta.pageSize
	end, err := t.elements(p, bucket, first, depth)
	if err != nil {
		return err
	}
	if t.live != nil {
		t.live(from, from+int64(end))
	}
	// bolt takes as many pages as what it writes needs.
	if has, need := int64(len(p.body))/t.meta.pageSize, (int64(end)+t.meta.pageSize-1)/t.meta.pageSize; has != need {
		return badPage(id, "it takes up %d pages, and its %d bytes need %d", has, end, need)
	}
	return nil
}

// read reads a page with those that it overflows to.
func (t *boltTree) read(id uint64) (boltPage, error) {
	if id < 2 || id >= t.meta.high {
		return boltPage{}, badPage(id, "a page points to it, and the file has pages 2 to %d", t.meta.high)
	}
	head := make([]byte, boltPageHeader)
	if _, err := t.file.ReadAt(head, int64(id)*t.meta.pageSize); err != nil {
		return boltPage{}, badPage(id, "it cannot be read: %v", err)
	}
	own, run := binary.NativeEndian.Uint64(head), uint64(binary.NativeEndian.Uint32(head[12:]))+1
	switch {
	case own != id:
		return boltPage{}, badPage(id, "it says that it is page %d", own)
	case run > t.meta.high-id || run*uint64(t.meta.pageSize) > maxBoltRun:
		return boltPage{}, badPage(id, "it takes up %d pages, and the file has pages up to %d", run, t.meta.high)
	}
	for i := id; i < id+run; i++ {
		if t.seen[i] {
			return boltPage{}, badPage(i, "it is in use twice")
		}
		t.seen[i] = true
	}
	body := make([]byte, int64(run)*t.meta.pageSize)
	if _, err := t.file.ReadAt(body, int64(id)*t.meta.pageSize); err != nil {
		return boltPage{}, badPage(id, "it cannot be read: %v", err)
	}
	return parsePage(id, body)
}

// parsePage reads a header. body may be a page that is kept inside of a value.
func parsePage(id uint64, body []byte) (boltPage, error) {
	p := boltPage{id: id, flags: binary.NativeEndian.Uint16(body[8:]), count: int(binary.NativeEndian.Uint16(body[10:])), body: body}
	p.end = boltPageHeader + p.count*boltElement
	switch {
	case p.flags != boltBranch && p.flags != boltLeaf:
		return p, badPage(id, "its kind is %d, which is neither branch nor leaf", p.flags)
	case p.end > len(body):
		return p, badPage(id, "it counts %d elements, more than fit", p.count)
	case p.flags == boltBranch && p.count == 0:
		return p, badPage(id, "it is a branch without elements")
	}
	return p, nil
}

// boltRecord is one element of a page.
type boltRecord struct {
	key, val []byte
	child    uint64 // of a branch
	bucket   bool   // of a leaf
	end      int    // where its key and value end
}

// element reads the i-th element, whose key has to begin at from.
func (p boltPage) element(i, from int) (boltRecord, error) {
	at := boltPageHeader + i*boltElement
	word := func(n int) int64 { return int64(binary.NativeEndian.Uint32(p.body[at+4*n:])) }
	flags, pos, ksize, vsize := int64(0), word(0), word(1), int64(0)
	if p.flags == boltLeaf {
		flags, pos, ksize, vsize = word(0), word(1), word(2), word(3)
	}
	room := int64(len(p.body) - from)
	switch {
	case int64(at)+pos != int64(from):
		return boltRecord{}, badPage(p.id, "element %d begins at byte %d, and what stands before it ends at %d", i, int64(at)+pos, from)
	case ksize == 0 || ksize > room || vsize > room-ksize:
		return boltRecord{}, badPage(p.id, "element %d has a key of %d and a value of %d bytes, and %d are left", i, ksize, vsize, room)
	case flags&^boltIsBucket != 0:
		return boltRecord{}, badPage(p.id, "element %d has the unknown flags %d", i, flags)
	}
	mid := from + int(ksize)
	r := boltRecord{key: p.body[from:mid:mid], bucket: flags != 0, end: mid + int(vsize)}
	r.val = p.body[mid:r.end:r.end]
	if p.flags == boltBranch {
		r.child = binary.NativeEndian.Uint64(p.body[at+8:])
	}
	return r, nil
}

// elements visits what is on a page, in order, and returns where it ends.
func (t *boltTree) elements(p boltPage, bucket string, first []byte, depth int) (int, error) {
	var last []byte
	end := p.end
	for i := range p.count {
		e, err := p.element(i, end)
		if err != nil {
			return 0, err
		}
		switch {
		case last != nil && bytes.Compare(e.key, last) <= 0:
			return 0, badPage(p.id, "key %x follows key %x, out of order", e.key, last)
		case i == 0 && first != nil && !bytes.Equal(e.key, first):
			return 0, badPage(p.id, "it begins with key %x, and the page above it says %x", e.key, first)
		}
		last, end = e.key, e.end
		switch {
		case p.flags == boltBranch:
			err = t.page(e.child, bucket, e.key, depth+1)
		case e.bucket:
			err = t.bucket(p, bucket, e, depth)
		default:
			err = t.visit(bucket, e.key, e.val)
		}
		if err != nil {
			return 0, err
		}
	}
	return end, nil
}

// bucket visits a bucket, which has a page of its own or, while it is small, lies within its value.
func (t *boltTree) bucket(p boltPage, in string, e boltRecord, depth int) error {
	if in != "" {
		return badPage(p.id, "bucket %q is inside of bucket %q", e.key, in)
	}
	if err := t.visit(string(e.key), nil, nil); err != nil {
		return err
	}
	if len(e.val) < boltBucketHeader {
		return badPage(p.id, "bucket %q has %d bytes", e.key, len(e.val))
	}
	root, inside := binary.NativeEndian.Uint64(e.val), e.val[boltBucketHeader:]
	switch {
	case root != 0 && len(inside) == 0:
		return t.page(root, string(e.key), nil, depth+1)
	case root != 0 || len(inside) < boltPageHeader:
		return badPage(p.id, "bucket %q has page %d and %d bytes within", e.key, root, len(inside))
	}
	small, err := parsePage(p.id, inside)
	if err != nil {
		return err
	}
	if small.flags != boltLeaf {
		return badPage(p.id, "bucket %q is a branch within a value", e.key)
	}
	end, err := t.elements(small, string(e.key), nil, depth+1)
	if err == nil && end != len(inside) {
		return badPage(p.id, "bucket %q ends at byte %d of %d", e.key, end, len(inside))
	}
	return err
}
