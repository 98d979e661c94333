//! The processes of a world and the connections between them.
//!
//! As with NCCL, rank 0 listens at the address in the identifier, every process tells it where it can be
//! reached and on which GPU it is, and gets the list of all. Messages are queued by whoever receives
//! them, so no sender ever waits.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::lock;

/// Which communicator a message belongs to, and which process of the world sent it.
type Channel = (u64, usize);

/// This process among the others.
pub(crate) struct World {
    rank: usize,
    peers: Vec<SocketAddr>,
    outgoing: Mutex<HashMap<usize, TcpStream>>,
    incoming: Mutex<HashMap<Channel, VecDeque<Vec<u8>>>>,
    arrived: Condvar,
}

/// Three numbers: what each process tells rank 0 (rank, port, GPU), and what comes before each message
/// (communicator, sender, length).
type Words = [u64; 3];

const WORDS_BYTES: usize = size_of::<Words>();

fn to_bytes(words: Words) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn to_words(bytes: &[u8]) -> Words {
    let word = |place: usize| bytes[place * 8..][..8].try_into().map_or(0, u64::from_le_bytes);
    [word(0), word(1), word(2)]
}

/// Why a world cannot be joined.
pub(crate) enum Refusal {
    /// A connection failed.
    System(String),
    /// Ranks are on one GPU that may not be.
    SharedGpu(String),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::System(error.to_string())
    }
}

/// Collects the cards of all processes at an address, and gives each the whole list.
pub(crate) fn serve(listener: &TcpListener, size: usize) -> io::Result<()> {
    let mut cards = vec![Vec::new(); size];
    let mut visitors = Vec::new();
    while visitors.len() < size {
        let (mut visitor, _) = listener.accept()?;
        let mut card = vec![0; WORDS_BYTES];
        visitor.read_exact(&mut card)?;
        let [rank, ..] = to_words(&card);
        *cards.get_mut(rank as usize).ok_or(io::ErrorKind::InvalidData)? = card;
        visitors.push(visitor);
    }
    let list = cards.concat();
    visitors.iter_mut().try_for_each(|visitor| visitor.write_all(&list))
}

fn connect(address: SocketAddr) -> TcpStream {
    loop {
        if let Ok(stream) = TcpStream::connect(address) {
            return stream;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

impl World {
    /// Meets the other processes at an address; waits for them without end.
    pub(crate) fn join(
        root: SocketAddr,
        (rank, size): (usize, usize),
        gpu: usize,
        may_share: bool,
    ) -> Result<Arc<Self>, Refusal> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = u64::from(listener.local_addr()?.port());
        let mut meeting = connect(root);
        meeting.write_all(&to_bytes([rank as u64, port, gpu as u64]))?;
        let mut list = vec![0; size * WORDS_BYTES];
        meeting.read_exact(&mut list)?;
        let cards: Vec<Words> = list.chunks_exact(WORDS_BYTES).map(to_words).collect();
        let is_other = |[other, _, on]: &&Words| *other != rank as u64 && *on == gpu as u64;
        if let Some([other, ..]) = cards.iter().find(is_other).filter(|_| !may_share) {
            let message = format!(
                "Duplicate GPU detected : rank {rank} and rank {other} both on CUDA device {gpu}"
            );
            return Err(Refusal::SharedGpu(message));
        }
        let address = |[_, port, _]: &Words| SocketAddr::from((Ipv4Addr::LOCALHOST, *port as u16));
        let world = Arc::new(Self {
            rank,
            peers: cards.iter().map(address).collect(),
            outgoing: Mutex::default(),
            incoming: Mutex::default(),
            arrived: Condvar::new(),
        });
        let receiver = Arc::clone(&world);
        thread::spawn(move || receiver.accept(&listener));
        Ok(world)
    }

    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for visitor in listener.incoming().flatten() {
            let world = Arc::clone(&self);
            thread::spawn(move || world.read(visitor));
        }
    }

    /// Queues what comes over a connection. Its end says nothing: whoever waits, waits.
    fn read(&self, mut visitor: TcpStream) -> io::Result<()> {
        loop {
            let mut head = [0; WORDS_BYTES];
            visitor.read_exact(&mut head)?;
            let [communicator, from, length] = to_words(&head);
            let mut message = vec![0; length as usize];
            visitor.read_exact(&mut message)?;
            self.put((communicator, from as usize), message);
        }
    }

    fn put(&self, channel: Channel, message: Vec<u8>) {
        lock(&self.incoming).entry(channel).or_default().push_back(message);
        self.arrived.notify_all();
    }

    pub(crate) fn send(&self, communicator: u64, to: usize, message: &[u8]) {
        if to == self.rank {
            return self.put((communicator, self.rank), message.to_vec());
        }
        let head = to_bytes([communicator, self.rank as u64, message.len() as u64]);
        let mut outgoing = lock(&self.outgoing);
        let stream = outgoing.entry(to).or_insert_with(|| connect(self.peers[to]));
        // One that is gone receives nothing any more.
        let _ = stream.write_all(&[&head[..], message].concat());
    }

    /// Waits for the next message of a process, unless `is_over` says that nobody needs it any more.
    pub(crate) fn receive(
        &self,
        communicator: u64,
        from: usize,
        is_over: impl Fn() -> bool,
    ) -> Option<Vec<u8>> {
        let mut incoming = lock(&self.incoming);
        loop {
            let queue = incoming.entry((communicator, from)).or_default();
            if let Some(message) = queue.pop_front() {
                return Some(message);
            }
            if is_over() {
                return None;
            }
            let waited = self.arrived.wait_timeout(incoming, Duration::from_millis(20));
            incoming = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
