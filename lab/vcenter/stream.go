package main

import (
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

const (
	// settle is how long changes are collected before they are sent together.
	settle    = 20 * time.Millisecond
	pageLimit = 100
)

// streams are the updates that clients wait for.
//
// The simulator's own WaitForUpdatesEx reads every object of a filter anew for every change of any object: with a
// thousand forks and their tasks in a view that is minutes. Ours reads what has changed.
type streams struct {
	v     *vcenter
	mutex sync.Mutex
	all   map[types.ManagedObjectReference]*stream
}

// stream is one property collector's.
type stream struct {
	mutex   sync.Mutex
	dirty   map[types.ManagedObjectReference]bool
	members map[types.ManagedObjectReference]bool
	wake    chan struct{}
	ended   chan struct{}
	cancel  chan struct{}
	once    sync.Once

	// Below is touched by the one call that waits.
	calling sync.Mutex
	version int
	pending []types.PropertyFilterUpdate
	filters map[types.ManagedObjectReference]*filterState
}

// filterState is what one filter's client has been told.
type filterState struct {
	sent map[types.ManagedObjectReference]map[string]types.AnyType
}

func newStreams(v *vcenter) *streams {
	return &streams{v: v, all: map[types.ManagedObjectReference]*stream{}}
}

func (s *streams) open(ref types.ManagedObjectReference) *stream {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.all[ref] == nil {
		s.all[ref] = &stream{
			dirty: map[types.ManagedObjectReference]bool{}, members: map[types.ManagedObjectReference]bool{},
			wake: make(chan struct{}, 1), ended: make(chan struct{}), cancel: make(chan struct{}, 1),
			filters: map[types.ManagedObjectReference]*filterState{},
		}
	}
	return s.all[ref]
}

// changed tells every stream that has the object, or that has it in view, that it is to be read again.
func (s *streams) changed(ref types.ManagedObjectReference) {
	s.mutex.Lock()
	all := make([]*stream, 0, len(s.all))
	for _, one := range s.all {
		all = append(all, one)
	}
	s.mutex.Unlock()
	for _, one := range all {
		one.mark(ref)
	}
}

func (s *streams) close(ref types.ManagedObjectReference) {
	s.mutex.Lock()
	found := s.all[ref]
	delete(s.all, ref)
	s.mutex.Unlock()
	if found != nil {
		found.once.Do(func() { close(found.ended) })
	}
}

// endAll of one session, or, without a key, of all.
func (s *streams) endAll(session string) {
	s.mutex.Lock()
	refs := make([]types.ManagedObjectReference, 0, len(s.all))
	for ref := range s.all {
		if strings.HasPrefix(ref.Value, session) {
			refs = append(refs, ref)
		}
	}
	s.mutex.Unlock()
	for _, ref := range refs {
		s.close(ref)
	}
}

func (s *stream) mark(ref types.ManagedObjectReference) {
	s.mutex.Lock()
	known := s.members[ref]
	if known {
		s.dirty[ref] = true
	}
	s.mutex.Unlock()
	if known {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}
