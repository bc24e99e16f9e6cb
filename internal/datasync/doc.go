// Package datasync syncs the content of a file whose size and place do not change, where the system can do so without the
// file's metadata, and keeps small writes to it cheap.
package datasync
