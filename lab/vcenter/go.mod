module forkyard/lab/vcenter

// go.sum holds what the two programs are built of. `go mod tidy` also adds what only the tests of a dependency need,
// among it a module whose path is the name of a host, and no file here names one: take that line out again.

go 1.25.0

require (
	github.com/google/uuid v1.6.0
	github.com/vmware/govmomi v0.55.1
)

require (
	github.com/a8m/tree v0.0.0-20240104212747-2c8764a5f17e // indirect
	github.com/dougm/pretty v0.0.0-20160325215624-add1dbc86daf // indirect
	github.com/kr/text v0.2.0 // indirect
	github.com/rogpeppe/go-internal v1.16.0 // indirect
)
