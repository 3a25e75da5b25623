//! Published templates whose renderings are held to those of transformers by the tests: they need no fence.

/// SHA-256 of the templates as published, 64 hexadecimal digits each.
const KNOWN: [&str; 8] = [
    // Llama 3.1
    "e10ca381b1ccc5cf9db52e371f3b6651576caee0a630b452e2816b2d404d4b65",
    // Llama 3.2
    "5816fce10444e03c2e9ee1ef8a4a1ea61ae7e69e438613f3b17b69d0426223a4",
    // Mistral Nemo
    "e4676cb56dffea7782fd3e2b577cfaf1e123537e6ef49b3ec7caa6c095c62272",
    // Phi 3.5
    "78d976a442bcde2f0be15aafbb8e3050e1104f86732266f68403251b89982a90",
    // Qwen 2.5
    "cd8e9439f0570856fd70470bf8889ebd8b5d1107207f67a5efb46e342330527f",
    // Qwen 3
    "87a2728cb8dc9fe424d624542f6060ec05a1d285ebbec578bb078900e33396b5",
    // SmolLM 2
    "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788",
    // SmolLM 3
    "19eacf64569032f07644ea92c8e2a87af06ee7008147557302c31e474912ca97",
];

/// Whether the template with this hash is one of them.
pub(super) fn is_known(sha256: &str) -> bool {
    KNOWN.contains(&sha256)
}
