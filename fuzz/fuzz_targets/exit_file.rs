#![no_main]

include!("../driver.rs");
