// Package pb holds the protobuf messages of log entries and snapshots.
//
// The schema is registry.proto; registry.pb.go is generated from it and checked
// in, so that building needs Go alone. After a change of the schema run
// `make generate`; `make check-generated` fails while the two differ.
//
// Field numbers are on disk and travel between servers of different releases:
// a number is never used again for another meaning.
package pb

//go:generate make -C ../.. generate
