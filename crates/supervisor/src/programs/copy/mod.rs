//! One running copy of a program: started, signalled, ended.
